"""Defines common types used throughout cmd2."""

from collections.abc import (
    Callable,
    Mapping,
    Sequence,
)
from typing import (
    TYPE_CHECKING,
    Any,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    Union,
    overload,
)

if TYPE_CHECKING:  # pragma: no cover
    from .cmd2 import Cmd
    from .command_set import CommandSet
    from .completion import Choices, Completions

P = ParamSpec("P")


##################################################################################################
# Cmd and CommandSet Aliases (For basic inputs)
#
# Use these for arguments where the function can handle either a Cmd or a CommandSet.
# Note: The function logic must be able to handle both types.
#
# If the function returns the object it was passed, using these aliases will cause
# the IDE to "lose track" of the specific subclass. Use the Generics below instead.
##################################################################################################

# A Cmd or CommandSet instance
CmdOrSet: TypeAlias = Union["Cmd", "CommandSet[Any]"]

# A Cmd or CommandSet class
CmdOrSetClass: TypeAlias = type["Cmd"] | type["CommandSet[Any]"]


##################################################################################################
# Cmd and CommandSet Generics (Subclass Tracking)
#
# Use these when you need to track a specific subclass through a function.
# This ensures that if you pass in 'CustomCmd', the type checker knows it's
# still a 'CustomCmd' (not just a generic 'Cmd') when it comes out.
##################################################################################################

# Tracks a specific subclass instance of Cmd
CmdT = TypeVar("CmdT", bound="Cmd")

# Tracks a specific subclass instance of CommandSet
CommandSetT = TypeVar("CommandSetT", bound="CommandSet[Any]")

# Tracks the specific subclass instance (either a Cmd or CommandSet)
CmdOrSetT = TypeVar("CmdOrSetT", bound=CmdOrSet)

# For protocols that accept a Cmd or CommandSet instance
CmdOrSetT_contra = TypeVar("CmdOrSetT_contra", bound=CmdOrSet, contravariant=True)

# Tracks the specific class itself (either a Cmd or CommandSet class)
CmdOrSetClassT = TypeVar("CmdOrSetClassT", bound=CmdOrSetClass)


##################################################################################################
# Command Function Types
##################################################################################################


# A bound cmd2 command function (e.g. do_command).
# The 'self' argument is already tied to an instance and is omitted.
class BoundCommandFunc(Protocol[P]):
    """Protocol for a command function bound to a command instance."""

    if TYPE_CHECKING:

        @property
        def __name__(self) -> str:
            """Name of the command function."""

        @property
        def __qualname__(self) -> str:
            """Qualified name of the command function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> bool | None:
        """Invoke the bound command function."""


# An unbound cmd2 command function (e.g. the class method do_command).
# The 'self' argument can be either a Cmd or CommandSet instance.
class UnboundCommandFunc(Protocol[CmdOrSetT_contra, P]):
    """Protocol for an unbound command function."""

    __name__: str
    __qualname__: str

    def __call__(self, __self: CmdOrSetT_contra, /, *args: P.args, **kwargs: P.kwargs) -> bool | None:
        """Invoke the unbound command function with its command instance."""

    @overload
    def __get__(self, instance: None, owner: Any = ...) -> "UnboundCommandFunc[CmdOrSetT_contra, P]": ...

    @overload
    def __get__(self, instance: CmdOrSetT_contra, owner: Any = ...) -> BoundCommandFunc[P]: ...


##################################################################################################
# Types used in choices_providers and completers
##################################################################################################

# Represents the parsed tokens from argparse during completion
ArgTokens: TypeAlias = Mapping[str, Sequence[str]]

##################################################
# choices_provider function types
##################################################

# Unbound choices_provider function types used by argparse-based completion.
# These expect a Cmd or CommandSet instance as the first argument.
UnboundChoicesProvider: TypeAlias = (
    # Basic: (self) -> Choices
    Callable[[CmdOrSetT], "Choices"]
    # Context-aware: (self, arg_tokens) -> Choices
    | Callable[[CmdOrSetT, ArgTokens], "Choices"]
)

##################################################
# completer function types
##################################################

# Unbound completer function types used by argparse-based completion.
# These expect a Cmd or CommandSet instance as the first argument.
UnboundCompleter: TypeAlias = (
    # Basic: (self, text, line, begidx, endidx) -> Completions
    Callable[[CmdOrSetT, str, str, int, int], "Completions"]
    # Context-aware: (self, text, line, begidx, endidx, arg_tokens) -> Completions
    | Callable[[CmdOrSetT, str, str, int, int, ArgTokens], "Completions"]
)

# A bound completer used internally by cmd2 for basic completion logic.
# The 'self' argument is already tied to an instance and is omitted.
# Format: (text, line, begidx, endidx) -> Completions
BoundCompleter: TypeAlias = Callable[[str, str, int, int], "Completions"]
