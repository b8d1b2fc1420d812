# The binary with the parts of a production platform, and nothing else that could be run: no shell, no package manager.
# Build: docker build --tag flywheel .

FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
# `dist` is what releases are built with; `--build-arg PROFILE=release` builds in less time what runs slower.
ARG PROFILE=dist
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/target \
    CARGO_TARGET_DIR=/target cargo build --locked --profile "$PROFILE" --package flywheel --features production && \
    install -D --strip "/target/$PROFILE/flywheel" /image/usr/bin/flywheel
# What the binary needs of a system: its C library, the authorities of TLS, how names are found, and one user.
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN ldd /image/usr/bin/flywheel | grep -o '/[^ ]*' | xargs cp --dereference --parents --target-directory=/image && \
    install -D --mode=644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt && \
    install -D --mode=644 LICENSE /image/usr/share/licenses/flywheel/LICENSE && \
    echo 'hosts: files dns' > /image/etc/nsswitch.conf && \
    echo 'flywheel:x:10001:10001::/data:/sbin/nologin' > /image/etc/passwd && \
    echo 'flywheel:x:10001:' > /image/etc/group && \
    install --directory --owner=10001 --group=10001 --mode=700 /image/data /image/keys

FROM scratch
COPY --from=build /image /
USER 10001:10001
# The only place that is written to; everything else may be read-only.
ENV FLYWHEEL_DATA_DIR=/data
WORKDIR /data
ENTRYPOINT ["/usr/bin/flywheel"]
CMD ["--help"]
