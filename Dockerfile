# unseen in a container, for processors or CUDA by one argument:
#   docker build -t unseen --build-arg TORCH_INDEX=ADDRESS .
# where ADDRESS is PyTorch's index of wheels for processors or for a version of CUDA (pytorch.org
# names them); without the argument pip takes what the Python package index has, which is CUDA's on
# Linux.
#   docker run --rm -v "$PWD:/data" unseen segment photos --classes "cat, sofa" --out labelled
#   docker run --rm --gpus all -p 7860:7860 unseen serve --host 0.0.0.0
FROM python:3.12-slim AS wheel
WORKDIR /source
RUN pip install --no-cache-dir build
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m build --wheel --outdir /wheels

FROM python:3.12-slim
ARG TORCH_INDEX=""
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir "$(ls /wheels/*.whl)[app,geo]" && rm -r /wheels
# What is downloaded stays between runs where a folder is mounted here.
ENV XDG_CACHE_HOME=/cache HF_HOME=/cache/huggingface
RUN useradd --create-home unseen && mkdir /cache /data && chown unseen /cache /data
USER unseen
WORKDIR /data
EXPOSE 7860
ENTRYPOINT ["unseen"]
CMD ["--help"]
