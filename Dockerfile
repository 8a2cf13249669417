# One image for every service of ours; docker-compose.yml says which it is.
# A build argument picks the index of torch's CPU or CUDA builds:
#   docker build --build-arg TORCH_INDEX_URL=… .     (torch's documentation lists them; empty: pip's own choice)
# EXTRAS are those of pyproject.toml, PACKAGES those of Debian.
FROM python:3.11-slim-bookworm AS build
ARG TORCH_INDEX_URL=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv
WORKDIR /src
# torch first and alone: the largest layer, and one that other libraries do not touch.
RUN --mount=type=cache,target=/root/.cache/pip \
    /venv/bin/pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} 'torch>=2.10' 'torchvision>=0.25'
# Without the code this installs what the code needs, in a layer that a change of the code leaves alone.
ARG EXTRAS=production,monitoring
COPY pyproject.toml README.md LICENSE ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /venv/bin/pip install ".[$EXTRAS]" && /venv/bin/pip uninstall --yes clead

FROM build AS code
COPY app app
COPY worker worker
COPY models models
COPY migrations migrations
RUN --mount=type=cache,target=/root/.cache/pip /venv/bin/pip wheel --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="clead" \
      org.opencontainers.image.description="Train, attack, compare and serve robust image classifiers" \
      org.opencontainers.image.licenses="Apache-2.0"
# Volumes are mounted on these folders and take their owner from them.
RUN groupadd --gid 1000 clead && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /data clead \
 && install -d -o clead -g clead /data /run/secrets /run/prometheus
ARG PACKAGES=
RUN if [ -n "$PACKAGES" ]; then \
        apt-get update && apt-get install --yes --no-install-recommends $PACKAGES && rm -rf /var/lib/apt/lists/*; fi
COPY docker/database_password.py /usr/local/bin/database-password
COPY --from=build /venv /venv
RUN --mount=type=bind,from=code,source=/wheels,target=/wheels \
    /venv/bin/pip install --no-index --no-deps --no-cache-dir /wheels/*.whl
ENV PATH=/venv/bin:$PATH CLEAD_HOME=/data PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
WORKDIR /data
EXPOSE 8000
CMD ["uvicorn", "app.main:create_app", "--factory", "--host", "0.0.0.0", "--port", "8000", "--timeout-graceful-shutdown", "5"]
