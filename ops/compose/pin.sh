#!/bin/sh
# Pin every image that is not ours to the digest that its tag has at its registry now: sh ops/compose/pin.sh
# Needs docker with buildx. `git diff` shows what has changed; run again, it brings the digests of that day.
set -eu
cd "$(dirname "$0")/../.."
files='docker-compose.yml Dockerfile'

# name:tag, by itself or as what a variable is without a value.
images=$(sed -nE 's/^ *image: ([^$ @]+:[^ @]+).*/\1/p; s/.*_IMAGE:-([^@}]+).*/\1/p; s/^ARG .*_IMAGE=([^@ ]+).*/\1/p' $files | sort -u)
for image in $images; do
    digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$image")
    case $digest in
    sha256:*) ;;
    *)
        echo "no digest of $image was found" >&2
        exit 1
        ;;
    esac
    for file in $files; do
        pinned=$(sed -E "s#([ =-])$image(@sha256:[0-9a-f]+)?([ }]|\$)#\\1$image@$digest\\3#g" "$file")
        printf '%s\n' "$pinned" > "$file"
    done
    echo "$image@$digest"
done
