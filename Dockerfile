# One image for the API, the worker and the migration; docker-compose.yml says which it is.
# A build argument picks the index of torch's CPU or CUDA builds:
#   docker build --build-arg TORCH_INDEX_URL=… .     (torch's documentation lists them; empty: pip's own choice)
FROM python:3.11-slim-bookworm AS build
ARG TORCH_INDEX_URL=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
# torch first and alone: the largest layer, and one that a change of the code does not touch.
RUN --mount=type=cache,target=/root/.cache/pip \
    /venv/bin/pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} 'torch>=2.10' 'torchvision>=0.25'
COPY app app
COPY worker worker
COPY models models
COPY migrations migrations
RUN --mount=type=cache,target=/root/.cache/pip /venv/bin/pip install '.[production]'

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 1000 --home-dir /data clead && install -d -o clead /data
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH CLEAD_HOME=/data PYTHONUNBUFFERED=1
USER clead
WORKDIR /data
VOLUME /data
EXPOSE 8000
CMD ["uvicorn", "app.main:create_app", "--factory", "--host", "0.0.0.0", "--port", "8000"]
