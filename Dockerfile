# Two stages: the first builds the environment, the second holds only what runs.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY app app
RUN python -m venv /opt/onnxplain \
 && /opt/onnxplain/bin/pip install --no-cache-dir --constraint constraints.txt . \
 && /opt/onnxplain/bin/pip uninstall --yes pip

FROM python:3.13-slim
LABEL org.opencontainers.image.title="onnxplain" \
      org.opencontainers.image.description="Explanations for deployed ONNX models over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/onnxplain /opt/onnxplain
COPY models /models
RUN useradd --system --no-create-home --uid 10001 onnxplain
USER 10001
ENV PATH=/opt/onnxplain/bin:$PATH PYTHONUNBUFFERED=1 \
    ONNXPLAIN_HOST=0.0.0.0 ONNXPLAIN_PORT=8000 ONNXPLAIN_MODELS=/models
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=2)"]
ENTRYPOINT ["onnxplain"]
CMD ["serve"]
