"""The gRPC face: proto/wallet/v1/wallet.proto, read, done by `api/actions/`, and answered."""
