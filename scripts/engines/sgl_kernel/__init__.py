"""Stands in for SGLang's kernel package, of which PyPI has CUDA builds only: every kernel says that it is missing."""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*args, **kwargs):
        raise NotImplementedError(f"sgl_kernel.{name}: there is no CPU build")

    return missing
