# The service's image: the API; or by its command a worker (`python worker.py`), or gRPC (`python -m ops.grpc`).

ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build

# Wheels only, each known by its hash: nothing is compiled, so neither stage needs a compiler.
COPY requirements.txt /tmp/
RUN python -m venv --without-pip /opt/venv \
 && python -m pip --python /opt/venv/bin/python install --quiet --no-cache-dir --no-input --disable-pip-version-check \
    --root-user-action ignore --only-binary :all: --require-hashes -r /tmp/requirements.txt

# What .dockerignore lets through. Readable for all, whatever umask it was checked out with; compiled now, since later
# nothing may be written.
COPY . /app
RUN chmod -R u=rwX,go=rX /app && rm /app/requirements.txt && python -m compileall -q /app


FROM ${PYTHON_IMAGE}

# The numbers are fixed because the files in the volumes of secrets belong to them; the second user may read what is for
# its group, and so not what is the API's alone. The folders are here so that a new
# volume mounted on one is the user's: its servers come through it to their own files, and cannot list it.
RUN groupadd --gid 10001 wallet \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin wallet \
 && useradd --uid 10002 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin wallet-worker \
 && install --directory --owner 10001 --group 10001 --mode 0711 \
    /run/wallet-secrets /run/monitoring-secrets

COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app

# A container's loopback is nobody's, so it listens everywhere. Whether callers may then simply name the user they are
# (ALLOW_USER_ID_MODE) is not for the image to say.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUTF8=1 \
    HOST=0.0.0.0 \
    PORT=8080 \
    GRPC_PORT=8081

WORKDIR /app
USER 10001:10001
EXPOSE 8080 8081

# Ready, not merely alive: whoever waits for the API waits for a migrated database.
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-m", "ops.compose.health", "api"]

# No shell in between: signals reach gunicorn and the worker themselves.
ENTRYPOINT ["python", "-m", "ops.compose.entry"]
CMD ["--prepare", "python", "-m", "gunicorn", "-c", "ops/http/gunicorn.conf.py", "wsgi:app"]
