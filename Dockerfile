# flavr_jax for a CPU or an NVIDIA GPU. It serves the web page unless another command is named:
#   docker build --target cpu --tag flavr_jax .
#   docker run --rm --volume "$PWD:/work" --user "$(id -u)" flavr_jax interpolate clip.mp4 --factor 4
# docs/web.md has more. The last target, cpu, is the default.

FROM python:3.12-slim AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim AS base
# Compiled programs are kept in a volume, which any user may write to.
RUN useradd --create-home --uid 1000 flavr \
    && mkdir --mode 1777 /cache \
    && mkdir --mode 1777 /work
ENV JAX_COMPILATION_CACHE_DIR=/cache PYTHONUNBUFFERED=1
WORKDIR /work
ENTRYPOINT ["flavr"]
CMD ["serve", "--host", "0.0.0.0"]
EXPOSE 8000
VOLUME /cache

FROM base AS cuda
# Wheels bring CUDA and cuDNN; the host needs the driver and NVIDIA's container toolkit.
ARG CUDA=cuda12
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir "flavr-jax[web,${CUDA}] @ file://$(echo /wheels/*.whl)"
USER 1000

FROM base AS cpu
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir "flavr-jax[web] @ file://$(echo /wheels/*.whl)"
USER 1000
