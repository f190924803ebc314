# Serves an adapter on port 8000, on CPUs: docs/serving.md, "In a container".
FROM python:3.11-slim AS build
# If your index provides torch with CUDA, name an index of CPU wheels: --build-arg PIP_EXTRA_INDEX_URL=…
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /source
COPY constraints.txt pyproject.toml README.md LICENSE NOTICE ./
COPY src src
RUN python -m venv /opt/fewclip \
    && /opt/fewclip/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[serve]'

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 fewclip
COPY --from=build /opt/fewclip /opt/fewclip
ENV PATH=/opt/fewclip/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /home/fewclip
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["fewclip", "serve", "/adapter", "--host", "0.0.0.0", "--port", "8000"]
