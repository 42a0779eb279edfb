# syntax=docker/dockerfile:1

# The image: one static binary, the certificate authorities, no shell, not root.
#
#   docker build -t entrepot .
#   docker run -p 5000:5000 -v entrepot:/data entrepot
#
# With nothing mounted it runs the configuration written below. Your own replaces it: mount the folder rather than the
# file, so that an edit reaches the running server, which watches it.
#
#   docker run -p 5000:5000 -v entrepot:/data -v ./config:/etc/entrepot:ro entrepot
#
# `docker stop` kills after 10 s; `docker stop --time 70` leaves running pulls and pushes the 60 s of `server.drain`.

ARG RUST_VERSION=1.95


# Alpine's own target is musl, so the binary is for whatever platform this stage runs on: `--platform` needs no cross compiler.
FROM rust:${RUST_VERSION}-alpine AS build

# ring compiles C: the image has a compiler, this adds the headers. The versions are the base image's Alpine's.
# hadolint ignore=DL3018
RUN apk add --no-cache ca-certificates musl-dev

WORKDIR /src
COPY . .

# The target is named, so that the flags below are for the binary and not for procedural macros, which cannot be static. The cache
# holds the target folder, hence the copy.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    host="$(rustc --version --verbose | sed -n 's/^host: //p')" \
    && RUSTFLAGS='-C target-feature=+crt-static' \
       cargo build --release --locked --bin entrepot --target "$host" \
    && install -D -m 0755 "target/$host/release/entrepot" /rootfs/entrepot

RUN install -d -m 0755 /rootfs/etc/ssl/certs /rootfs/etc/entrepot /rootfs/data \
    && cp /etc/ssl/certs/ca-certificates.crt /rootfs/etc/ssl/certs/ \
    && echo 'entrepot:x:65532:65532:entrepot:/data:/sbin/nologin' >/rootfs/etc/passwd \
    && echo 'entrepot:x:65532:' >/rootfs/etc/group

# A container has to listen on every address, and that takes an `auth` section: whoever reaches the port may pull, and nobody may
# push until a configuration of your own says so.
RUN printf '%s\n' \
    '# What the image serves until another file is mounted here: Docker Hub, pulled through and kept. Pushes are refused; to take' \
    '# them, say in `auth` who may.' \
    'server: { listen: "0.0.0.0:5000" }' \
    'storage: { path: /data }' \
    'auth: { anonymous: pull }' \
    'repositories:' \
    '  docker-local: { type: local }' \
    '  docker-hub: { type: remote, url: "https://registry-1.docker.io" }' \
    '  docker:' \
    '    type: virtual' \
    '    members: [{ repository: docker-local, priority: true }, docker-hub]' \
    '    push_to: docker-local' \
    'default: docker' \
    >/rootfs/etc/entrepot/repositories.yml


# Proof that the binary runs with nothing around it and that the configuration above is good. A stage of its own, because a RUN
# leaves the builder's mount points behind.
FROM scratch AS proof
COPY --from=build /rootfs /
RUN ["/entrepot", "check", "-c", "/etc/entrepot/repositories.yml"]


FROM scratch
LABEL org.opencontainers.image.title="entrepot" \
      org.opencontainers.image.description="An OCI registry: local, remote and virtual repositories behind one endpoint" \
      org.opencontainers.image.licenses="Apache-2.0"

COPY --from=build /rootfs/etc /etc
COPY --from=build --chown=65532:65532 /rootfs/data /data
COPY --from=proof /entrepot /entrepot

# By number: Kubernetes cannot tell whether a name is root.
USER 65532:65532
VOLUME ["/data"]
EXPOSE 5000

# There is no shell or curl to ask with. The longest start is a rebuild of the index.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m \
    CMD ["/entrepot", "healthcheck", "-c", "/etc/entrepot/repositories.yml"]

ENTRYPOINT ["/entrepot"]
CMD ["serve", "-c", "/etc/entrepot/repositories.yml"]
