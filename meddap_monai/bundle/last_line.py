"""The sentence that helps stands last: below MONAI's chain of causes, where the eye is."""

import sys
from types import TracebackType

from meddap_monai.errors import MeddapError


def own_error(error: BaseException | None) -> MeddapError | None:
    """Return the outermost error of this package in a chain of causes; None without any."""
    seen = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, MeddapError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def say_errors_last() -> None:
    """Let an uncaught error end with this package's sentence; MONAI wraps it in errors that say less."""
    before = sys.excepthook
    if getattr(before, "says_errors_last", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        before(kind, error, trace)
        own = own_error(error)
        if own is not None:
            sentence = " ".join(str(own).split())
            print(f"\n{type(own).__name__}: {sentence}", file=sys.stderr)

    hook.says_errors_last = True  # type: ignore[attr-defined]
    sys.excepthook = hook
