# syntax=docker/dockerfile:1
# One image for every process of ours: API, workers, beat, reconciler and commands differ in their command only.
#   docker build -t rangeboard .                       what is deployed
#   docker build -t rangeboard-loadtest --target loadtest .   the load test, with its tools

ARG PYTHON=3.13.14

# What is installed is exactly what the locks name, as wheels made here with the locked setuptools (a package or two
# come as source only). The virtual environment has no pip, and nothing that only builds.
FROM python:${PYTHON}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
COPY requirements/ requirements/
RUN sed -n '/^setuptools==/,/[^\\]$/p' requirements/dev.lock > build.lock \
 && pip install --require-hashes -r build.lock \
 && pip wheel --require-hashes --no-build-isolation --wheel-dir /wheels -r requirements/runtime.lock
COPY . .
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python -m venv --without-pip /opt/rangeboard \
 && pip --python /opt/rangeboard/bin/python install --no-index --no-deps /wheels/*.whl

# The load test stands outside of what it loads: its tools never come near a deployment.
FROM build AS loadtest
RUN pip wheel --require-hashes --no-build-isolation --wheel-dir /tools -r requirements/dev.lock \
 && pip --python /opt/rangeboard/bin/python install --no-index --no-deps /tools/*.whl
ENV PATH=/opt/rangeboard/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
USER 10001:10001
CMD ["locust", "-f", "loadtest/locustfile.py"]

FROM python:${PYTHON}-slim AS runtime
RUN useradd --system --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin --user-group rangeboard
COPY --from=build /opt/rangeboard /opt/rangeboard
# In a container the API has to listen on every address of it.
ENV PATH=/opt/rangeboard/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    RANGEBOARD_API_HOST=0.0.0.0
WORKDIR /tmp
USER 10001:10001
EXPOSE 8080 9464
# For the default command; other processes bring a check of their own, or none.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/livez', timeout=4)"]
CMD ["gunicorn", "-c", "python:api.gunicorn_conf", "api.app:create_app()"]
