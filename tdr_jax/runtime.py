"""What a command sets up before it computes; importing the package changes nothing."""

import os
import sys
from pathlib import Path

STOPPED = 75  # exit status of what was asked to stop and is saved: start it again (EX_TEMPFAIL)


def cache_folder() -> Path | None:
    """Name the folder for what is costly to compute twice.

    Returns:
        the folder named by the environment variable TDR_CACHE, else the user's cache folder;
        None if TDR_CACHE is "off". The folder need not exist.
    """
    chosen = os.environ.get("TDR_CACHE", "")
    if chosen:
        return None if chosen.lower() == "off" else Path(chosen).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "tdr_jax"


def choose_cpu_kernels() -> None:
    """Has XLA compute matrix products and convolutions on CPU with Eigen rather than YNNPACK.

    That is a fifth faster for networks of the width of Stable Diffusion's, and half as fast again
    for training a small autoencoder. It must be called before JAX starts; a choice that the
    environment variable XLA_FLAGS makes is left alone.
    """
    flag = "--xla_cpu_experimental_ynn_fusion_type"
    flags = os.environ.get("XLA_FLAGS", "")
    if flag not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}=".strip()


def keep_memory() -> None:
    """Has glibc keep what a program frees for its next run; does nothing where there is no glibc.

    A training step works in one buffer of hundreds of megabytes. Handed back to the system and
    asked for again at every step, its pages are cleared one by one: a fifth of the step's time.
    The process then holds on to its largest step's memory; it must be called before JAX starts.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return
    # Numbers of malloc.h. One arena, since those of threads cannot grow to such a size.
    trim_threshold, mmap_max, arena_max = -1, -4, -8
    for option, value in ((trim_threshold, 2**31 - 1), (mmap_max, 0), (arena_max, 1)):
        mallopt(option, value)


def enable_compilation_cache() -> Path | None:
    """Keep compiled programs on disk, so that the second start does not compile again.

    A JAX_COMPILATION_CACHE_DIR set by the user is left alone.

    Returns:
        the folder in use, or None if caching is off or the folder cannot be written (which is
        said on standard error).
    """
    import jax

    if jax.config.jax_compilation_cache_dir:
        return Path(jax.config.jax_compilation_cache_dir)
    root = cache_folder()
    if root is None:
        return None
    folder = root / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        print(
            f"tdr: no compilation cache: {folder}: {error.strerror}; set TDR_CACHE to a folder",
            file=sys.stderr,
        )
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Everything under a second is cheaper to compile than to keep.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    return folder
