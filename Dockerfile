# One file, two images: `api` (no torch) and `trainer` (the worker, the hf teacher and the demo).
# A GPU-less machine may want PyTorch's own CPU builds: --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# A fresh volume takes the owner of the folder that it covers: these exist so that nothing has to start as root.
RUN useradd --uid 10001 --create-home preceptor \
 && install -d -o preceptor -g preceptor /data /cache /secrets \
 && cd /secrets && install -d -o preceptor -g preceptor admin broker db teacher worker \
 && python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /opt/preceptor
COPY pyproject.toml README.md LICENSE ./
# Requirements come from pyproject.toml, before the code, so that a change of code does not install them again.
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
e = p['optional-dependencies']; \
open('/tmp/services.txt', 'w').write('\n'.join(p['dependencies'] + e['services'])); \
open('/tmp/trainer.txt', 'w').write('\n'.join(e['trainer'] + e['plots']))" \
 && pip install -r /tmp/services.txt

FROM base AS api
COPY clients clients
COPY trainer trainer
COPY services services
RUN pip install --no-deps .
USER preceptor
CMD ["preceptor", "api"]

FROM base AS trainer
ARG TORCH_INDEX_URL=
RUN pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch==2.13.0
# The slim image has no C compiler, which one dependency's dependency wants: see scripts/pycosat.
COPY scripts/pycosat /tmp/pycosat
RUN pip install /tmp/pycosat && pip install -r /tmp/trainer.txt
COPY clients clients
COPY trainer trainer
COPY services services
RUN pip install --no-deps .
COPY models models
COPY examples examples
USER preceptor
CMD ["preceptor", "worker"]
