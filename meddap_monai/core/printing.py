"""How the transforms of this package print: their class and the arguments that they were made with."""

import functools
import inspect
from collections.abc import Callable
from typing import Any


class PrintsArguments:
    """Prints as it would be written, defaults left out.

    Example:
        >>> from meddap_monai.transforms import MaskBurnedInd
        >>> MaskBurnedInd("image", missing="keep")
        MaskBurnedInd(keys='image', missing='keep')
    """

    given: tuple[tuple[Any, ...], dict[str, Any]]

    def __init_subclass__(cls, **options: Any) -> None:
        """Let the class's ``__init__`` note its arguments; its signature stays, which bundles are checked against."""
        super().__init_subclass__(**options)
        if "__init__" in cls.__dict__:
            setattr(cls, "__init__", _noting(cls.__dict__["__init__"]))  # noqa: B010

    def __repr__(self) -> str:
        bound = inspect.signature(type(self).__init__).bind(self, *self.given[0], **self.given[1])
        caught = {name for name, one in bound.signature.parameters.items() if one.kind is one.VAR_KEYWORD}
        _, *rest = bound.arguments.items()
        pairs = [pair for name, value in rest for pair in (value.items() if name in caught else [(name, value)])]
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in pairs)})"


def _noting(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def noting(self: Any, *args: Any, **kwargs: Any) -> None:
        if "given" not in self.__dict__:
            self.given = args, kwargs
        init(self, *args, **kwargs)

    return noting
