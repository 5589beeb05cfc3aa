# convd in a container: docker build -t convd . && docker run --rm -p 8080:8080 convd
#
# The image holds the program and the shared libraries that it loads, nothing else: no shell, no
# package manager. No HEALTHCHECK either: orchestrators probe /livez and /readyz themselves.
FROM debian:bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        gcc libc6-dev make libmicrohttpd-dev libjansson-dev libstb-dev zlib1g-dev
WORKDIR /src
COPY . .
RUN make \
    && install -D -s -m 755 build/gcc/convd /image/usr/bin/convd \
    && ldd build/gcc/convd | grep -o '/[^ ]*' | xargs cp -L --parents -t /image

FROM scratch
COPY --from=build /image /
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/usr/bin/convd"]
CMD ["serve", "--listen", "0.0.0.0:8080"]
