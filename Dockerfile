# docker build -t wawp-gateway . && docker run --read-only --cap-drop ALL -p 127.0.0.1:8080:8080 wawp-gateway
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked && .packages/container/assemble target/release/wawp-gateway /image

FROM scratch
COPY --from=build /image /
# Inside a container the loopback address is of no use to others. These override a settings file; publish only 8080.
ENV WAWP_GATEWAY_SERVER__LISTEN=0.0.0.0:8080 \
    WAWP_GATEWAY_SERVER__ADMIN=0.0.0.0:9464
# nobody. Any other id works, too: the program writes no file.
USER 65534:65534
EXPOSE 8080 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/usr/bin/wawp-gateway", "health"]
# Settings are in /etc/wawp-gateway/gateway.toml, if a file is mounted there.
ENTRYPOINT ["/usr/bin/wawp-gateway"]
