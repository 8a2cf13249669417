# Debian's Prometheus, laid out as the image prom/prometheus is: for tests where no registry is reached.
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends prometheus wget && rm -rf /var/lib/apt/lists/* \
 && install -d -o nobody -g nogroup /prometheus
ENTRYPOINT ["/bin/prometheus"]
