"""Shared utility functions."""

import contextlib
import errno
import functools
import glob
import inspect
import io
import itertools
import os
import re
import subprocess
import sys
import threading
from collections.abc import (
    Callable,
    Generator,
    Iterable,
    MutableSequence,
)
from difflib import SequenceMatcher
from typing import (
    TYPE_CHECKING,
    Any,
    TextIO,
    TypeVar,
    Union,
    cast,
)

from rich.text import Text

from . import constants
from . import rich_utils as ru
from . import string_utils as su
from .types import (
    CmdOrSet,
    CmdOrSetT,
    UnboundChoicesProvider,
    UnboundCompleter,
)

if TYPE_CHECKING:  # pragma: no cover
    PopenTextIO = subprocess.Popen[str]
    from .argparse_utils import Cmd2ArgumentParser
else:
    PopenTextIO = subprocess.Popen

T = TypeVar("T")


def to_bool(val: Any) -> bool:
    """Convert anything to a boolean based on its value.

    Strings like "True", "true", "False", and "false" return True, True, False, and False
    respectively. All other values are converted using bool()

    :param val: value being converted
    :return: boolean value expressed in the passed in value
    :raises ValueError: if the string does not contain a value corresponding to a boolean value
    """
    if isinstance(val, str):
        if val.capitalize() == str(True):
            return True
        if val.capitalize() == str(False):
            return False
        raise ValueError("must be True or False (case-insensitive)")
    if isinstance(val, bool):
        return val
    return bool(val)


def optional_int(val: Any) -> int | None:
    """Convert a value to an integer or None if it's "None" (case-insensitive).

    :param val: value being converted
    :return: int or None
    :raises ValueError: if the value is not "None" and cannot be converted to an integer
    """
    if val is None:
        return None
    if isinstance(val, str) and val.lower() == "none":
        return None
    try:
        return int(val)
    except (ValueError, TypeError):
        raise ValueError("must be an integer or None (case-insensitive)") from None


class Settable:
    """Used to configure an attribute to be settable via the set command in the CLI."""

    def __init__(
        self,
        name: str,
        val_type: type[Any] | Callable[[Any], Any],
        description: str | Text,
        settable_object: object,
        *,
        settable_attrib_name: str | None = None,
        onchange_cb: Callable[[str, Any, Any], Any] | None = None,
        choices: Iterable[Any] | None = None,
        choices_provider: UnboundChoicesProvider[CmdOrSetT] | None = None,
        completer: UnboundCompleter[CmdOrSetT] | None = None,
    ) -> None:
        """Settable Initializer.

        :param name: The user-facing name for this setting in the CLI.
        :param val_type: A callable used to cast the string value from the CLI into its
                         proper type and validate it. This function should raise an
                         exception (like ValueError or TypeError) if the conversion or
                         validation fails, which will be caught and displayed to the user
                         by the set command. For example, setting this to int ensures the
                         input is a valid integer. Specifying bool automatically provides
                         completion for 'true' and 'false' and uses a built-in function
                         for conversion and validation.
        :param description: A concise string or rich Text object that describes the purpose of this setting.
        :param settable_object: The object that owns the attribute being made settable (e.g. self).
        :param settable_attrib_name: The name of the attribute on the settable_object that
                                     will be modified. This defaults to the value of the name
                                     parameter if not specified.
        :param onchange_cb: An optional function or method to call when the value of this
                            setting is altered by the set command. The callback is invoked
                            only if the new value is different from the old one.

                            It receives three arguments:
                                param_name: str - name of the parameter
                                old_value: Any - the parameter's old value
                                new_value: Any - the parameter's new value

        The following optional settings provide completion for a parameter's values.
        They correspond to the same settings in argparse-based completion. A maximum
        of one of these should be provided.

        :param choices: iterable of accepted values
        :param choices_provider: function that provides choices for this argument
        :param completer: completion function that provides choices for this argument
        """
        if val_type is bool:
            from .completion import Choices

            def get_bool_choices(_cmd2_self: CmdOrSet) -> Choices:
                """Tab complete lowercase boolean values."""
                return Choices.from_values(["true", "false"])

            val_type = to_bool
            choices_provider = get_bool_choices

        self.name = name
        self.val_type = val_type
        self.description = ru.rich_text_to_string(description) if isinstance(description, Text) else description
        self.settable_obj = settable_object
        self.settable_attrib_name = settable_attrib_name if settable_attrib_name is not None else name
        self.onchange_cb = onchange_cb
        self.choices = choices
        self.choices_provider = choices_provider
        self.completer = completer

    @property
    def value(self) -> Any:
        """Get the value of the settable attribute."""
        return getattr(self.settable_obj, self.settable_attrib_name)

    @value.setter
    def value(self, value: Any) -> None:
        """Set the settable attribute on the specified destination object.

        :param value: new value to set
        """
        # Run the value through its type function to handle any conversion or validation
        new_value = self.val_type(value)

        # Make sure new_value is a valid choice
        if self.choices is not None and new_value not in self.choices:
            choices_str = ", ".join(map(repr, self.choices))
            raise ValueError(f"invalid choice: {new_value!r} (choose from {choices_str})")

        # Try to update the settable's value
        orig_value = self.value
        setattr(self.settable_obj, self.settable_attrib_name, new_value)

        # Check if we need to call an onchange callback
        if orig_value != new_value and self.onchange_cb:
            self.onchange_cb(self.name, orig_value, new_value)


def is_text_file(file_path: str) -> bool:
    """Return if a file contains only ASCII or UTF-8 encoded text and isn't empty.

    :param file_path: path to the file being checked
    :return: True if the file is a non-empty text file, otherwise False
    :raises OSError: if file can't be read
    """
    expanded_path = os.path.abspath(os.path.expanduser(file_path.strip()))
    valid_text_file = False

    # Only need to check for utf-8 compliance since that covers ASCII, too
    try:
        with open(expanded_path, encoding="utf-8", errors="strict") as f:
            # Make sure the file has only utf-8 text and is not empty
            if sum(1 for _ in f) > 0:
                valid_text_file = True
    except OSError:
        raise
    except UnicodeDecodeError:
        # Not UTF-8
        pass

    return valid_text_file


def remove_duplicates(items: Iterable[T]) -> list[T]:
    """Remove duplicates from an iterable while preserving order of the items.

    :param items: the items being pruned of duplicates
    :return: a list containing only the unique items, in order
    """
    return list(dict.fromkeys(items))


def alphabetical_sort(items: Iterable[str]) -> list[str]:
    """Sorts an iterable of strings alphabetically.

    For example: ['a1', 'A11', 'A2', 'a22', 'a3']

    To sort a list in place, don't call this method, which makes a copy. Instead, do this:

    my_list.sort(key=norm_fold)

    :param items: the strings to sort
    :return: a sorted list
    """
    return sorted(items, key=su.norm_fold)


def try_int_or_force_to_lower_case(input_str: str) -> int | str:
    """Try to convert the passed-in string to an integer. If that fails, it converts it to lower case using norm_fold.

    :param input_str: string to convert
    :return: the string as an integer or a lower case version of the string.
    """
    try:
        return int(input_str)
    except ValueError:
        return su.norm_fold(input_str)


def natural_keys(input_str: str) -> list[int | str]:
    """Convert a string into a list of integers and strings to support natural sorting (see natural_sort).

    For example: natural_keys('abc123def') -> ['abc', '123', 'def']
    :param input_str: string to convert
    :return: list of strings and integers
    """
    return [try_int_or_force_to_lower_case(substr) for substr in re.split(r"(\d+)", input_str)]


def natural_sort(list_to_sort: Iterable[str]) -> list[str]:
    """Sorts a list of strings case insensitively as well as numerically.

    For example: ['a1', 'A2', 'a3', 'A11', 'a22']

    To sort a list in place, don't call this method, which makes a copy. Instead, do this:

    my_list.sort(key=natural_keys)

    :param list_to_sort: the list being sorted
    :return: the list sorted naturally
    """
    return sorted(list_to_sort, key=natural_keys)


def quote_specific_tokens(tokens: MutableSequence[str], tokens_to_quote: Iterable[str]) -> None:
    """Quote specific tokens in a list.

    :param tokens: token list being edited
    :param tokens_to_quote: the tokens, which if present in tokens, to quote
    """
    for i, token in enumerate(tokens):
        if token in tokens_to_quote:
            tokens[i] = su.quote(token)


def unquote_specific_tokens(tokens: MutableSequence[str], tokens_to_unquote: Iterable[str]) -> None:
    """Unquote specific tokens in a list.

    :param tokens: token list being edited
    :param tokens_to_unquote: the tokens, which if present in tokens, to unquote
    """
    for i, token in enumerate(tokens):
        unquoted_token = su.strip_quotes(token)
        if unquoted_token in tokens_to_unquote:
            tokens[i] = unquoted_token


def expand_user(token: str) -> str:
    """Wrap os.expanduser() to support expanding ~ in quoted strings.

    :param token: the string to expand
    """
    if token:
        if su.is_quoted(token):
            quote_char = token[0]
            token = su.strip_quotes(token)
        else:
            quote_char = ""

        token = os.path.expanduser(token)

        # Restore the quotes even if not needed to preserve what the user typed
        if quote_char:
            token = quote_char + token + quote_char

    return token


def expand_user_in_tokens(tokens: MutableSequence[str]) -> None:
    """Call expand_user() on all tokens in a list of strings.

    :param tokens: tokens to expand.
    """
    for index, _ in enumerate(tokens):
        tokens[index] = expand_user(tokens[index])


def find_editor() -> str | None:
    """Set cmd2.Cmd.DEFAULT_EDITOR. If EDITOR env variable is set, that will be used.

    Otherwise the function will look for a known editor in directories specified by PATH env variable.
    :return: Default editor or None.
    """
    editor = os.environ.get("EDITOR")
    if not editor:
        if sys.platform[:3] == "win":
            editors = ["edit", "code.cmd", "notepad++.exe", "notepad.exe"]
        else:
            editors = ["vim", "vi", "emacs", "nano", "pico", "joe", "code", "subl", "gedit", "kate"]

        # Get a list of every directory in the PATH environment variable and ignore symbolic links
        env_path = os.getenv("PATH")
        paths = [] if env_path is None else [p for p in env_path.split(os.path.pathsep) if not os.path.islink(p)]

        for possible_editor, path in itertools.product(editors, paths):
            editor_path = os.path.join(path, possible_editor)
            if os.path.isfile(editor_path) and os.access(editor_path, os.X_OK):
                if sys.platform[:3] == "win":
                    # Remove extension from Windows file names
                    editor = os.path.splitext(possible_editor)[0]
                else:
                    editor = possible_editor
                break
        else:
            editor = None

    return editor


def files_from_glob_pattern(pattern: str, access: int = os.F_OK) -> list[str]:
    """Return a list of file paths based on a glob pattern.

    Only files are returned, not directories, and optionally only files for which the user has a specified access to.

    :param pattern: file name or glob pattern
    :param access: file access type to verify (os.* where * is F_OK, R_OK, W_OK, or X_OK)
    :return: list of files matching the name or glob pattern
    """
    return [f for f in glob.glob(pattern) if os.path.isfile(f) and os.access(f, access)]


def files_from_glob_patterns(patterns: Iterable[str], access: int = os.F_OK) -> list[str]:
    """Return a list of file paths based on a list of glob patterns.

    Only files are returned, not directories, and optionally only files for which the user has a specified access to.

    :param patterns: Iterable of file names and/or glob patterns
    :param access: file access type to verify (os.* where * is F_OK, R_OK, W_OK, or X_OK)
    :return: list of files matching the names and/or glob patterns
    """
    files = []
    for pattern in patterns:
        matches = files_from_glob_pattern(pattern, access=access)
        files.extend(matches)
    return files


def get_exes_in_path(starts_with: str) -> list[str]:
    """Return names of executables in a user's path.

    :param starts_with: what the exes should start with. leave blank for all exes in path.
    :return: a list of matching exe names
    """
    # Purposely don't match any executable containing wildcards
    wildcards = ["*", "?"]
    for wildcard in wildcards:
        if wildcard in starts_with:
            return []

    # Get a list of every directory in the PATH environment variable and ignore symbolic links
    env_path = os.getenv("PATH")
    paths = [] if env_path is None else [p for p in env_path.split(os.path.pathsep) if not os.path.islink(p)]

    # Use a set to store exe names since there can be duplicates
    exes_set = set()

    # Find every executable file in the user's path that matches the pattern
    for path in paths:
        full_path = os.path.join(path, starts_with)
        matches = files_from_glob_pattern(full_path + "*", access=os.X_OK)

        for match in matches:
            exes_set.add(os.path.basename(match))

    return list(exes_set)


class StdSim:
    """Class to simulate behavior of sys.stdout or sys.stderr.

    Stores contents in internal buffer and optionally echos to the inner stream it is simulating.
    """

    def __init__(
        self,
        inner_stream: Union[TextIO, "StdSim"],
        *,
        echo: bool = False,
        encoding: str = "utf-8",
        errors: str = "replace",
    ) -> None:
        """StdSim Initializer.

        :param inner_stream: the wrapped stream. Should be a TextIO or StdSim instance.
        :param echo: if True, then all input will be echoed to inner_stream
        :param encoding: codec for encoding/decoding strings (defaults to utf-8)
        :param errors: how to handle encoding/decoding errors (defaults to replace)
        """
        self.inner_stream = inner_stream
        self.echo = echo
        self.encoding = encoding
        self.errors = errors
        self.pause_storage = False
        self.buffer = ByteBuf(self)

    def write(self, s: str) -> None:
        """Add str to internal bytes buffer and if echo is True, echo contents to inner stream.

        :param s: String to write to the stream
        """
        if not isinstance(s, str):
            raise TypeError(f"write() argument must be str, not {type(s)}")

        if not self.pause_storage:
            self.buffer.byte_buf += s.encode(encoding=self.encoding, errors=self.errors)
        if self.echo:
            self.inner_stream.write(s)

    def getvalue(self) -> str:
        """Get the internal contents as a str."""
        return self.buffer.byte_buf.decode(encoding=self.encoding, errors=self.errors)

    def getbytes(self) -> bytes:
        """Get the internal contents as bytes."""
        return bytes(self.buffer.byte_buf)

    def read(self, size: int | None = -1) -> str:
        """Read from the internal contents as a str and then clear them out.

        :param size: Number of bytes to read from the stream
        """
        if size is None or size == -1:
            result = self.getvalue()
            self.clear()
        else:
            result = self.buffer.byte_buf[:size].decode(encoding=self.encoding, errors=self.errors)
            self.buffer.byte_buf = self.buffer.byte_buf[size:]

        return result

    def readbytes(self) -> bytes:
        """Read from the internal contents as bytes and then clear them out."""
        result = self.getbytes()
        self.clear()
        return result

    def clear(self) -> None:
        """Clear the internal contents."""
        self.buffer.byte_buf.clear()

    def isatty(self) -> bool:
        """StdSim only considered an interactive stream if `echo` is True and `inner_stream` is a tty."""
        if self.echo:
            return self.inner_stream.isatty()
        return False

    @property
    def line_buffering(self) -> bool:
        """Handle when the inner stream doesn't have a line_buffering attribute.

        Which is the case when running unit tests because pytest sets stdout to a pytest EncodedFile object.
        """
        try:
            return bool(self.inner_stream.line_buffering)
        except AttributeError:
            return False

    def __getattr__(self, name: str) -> Any:
        """Forward attribute lookups to the inner stream for attributes not defined on this class."""
        return getattr(self.inner_stream, name)


class ByteBuf:
    """Used by StdSim to write binary data and stores the actual bytes written."""

    # Used to know when to flush the StdSim
    NEWLINES = (b"\n", b"\r")

    def __init__(self, std_sim_instance: StdSim) -> None:
        """Initialize the ByteBuf instance."""
        self.byte_buf = bytearray()
        self.std_sim_instance = std_sim_instance

    def write(self, b: bytes) -> None:
        """Add bytes to internal bytes buffer and if echo is True, echo contents to inner stream."""
        if not isinstance(b, bytes):
            raise TypeError(f"a bytes-like object is required, not {type(b)}")
        if not self.std_sim_instance.pause_storage:
            self.byte_buf += b
        if self.std_sim_instance.echo:
            self.std_sim_instance.inner_stream.buffer.write(b)

            # Since StdSim wraps TextIO streams, we will flush the stream if line buffering is on
            # and the bytes being written contain a new line character. This is helpful when StdSim
            # is being used to capture output of a shell command because it causes the output to print
            # to the screen more often than if we waited for the stream to flush its buffer.
            if self.std_sim_instance.line_buffering and any(newline in b for newline in ByteBuf.NEWLINES):
                self.std_sim_instance.flush()


class _Utf8Console:
    """Set the Windows console to UTF-8 while cmd2 pipes output to a shell command or pager.

    cmd2 writes pipes as UTF-8. Windows console programs such as more, sort, and findstr decode
    piped input with the console's output code page, PowerShell with its input code page, and
    tools such as rg with UTF-8. The UTF-8 code page, 65001, suits them all, as `chcp 65001`
    would. It belongs to the whole console, so the code pages it replaced are restored once the
    last pipe that uses it has ended. Without a console, and on other platforms, it does nothing.
    """

    UTF8 = 65001

    def __init__(self, kernel32: Any = None) -> None:
        """Initialize for the console of a Windows API.

        :param kernel32: the Windows API to use, or None for ctypes.windll.kernel32 on Windows
        """
        self._kernel32 = kernel32
        self._lock = threading.Lock()
        # How many pipes use the console, and its input and output code pages to restore after the last
        self._users = 0
        self._saved: tuple[int, int] | None = None

    @contextlib.contextmanager
    def __call__(self) -> Generator[None]:
        """Keep the console at UTF-8 for as long as the context lasts."""
        kernel32 = self._kernel32
        if kernel32 is None and sys.platform == "win32":
            import ctypes

            kernel32 = ctypes.windll.kernel32
        if kernel32 is None:
            yield
            return
        with self._lock:
            if not self._users:
                # Without a console, the code pages are 0.
                code_pages = (kernel32.GetConsoleCP(), kernel32.GetConsoleOutputCP())
                if code_pages[1] and code_pages != (self.UTF8, self.UTF8):
                    self._saved = code_pages
                    kernel32.SetConsoleCP(self.UTF8)
                    kernel32.SetConsoleOutputCP(self.UTF8)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users and self._saved is not None:
                    input_code_page, output_code_page = self._saved
                    self._saved = None
                    kernel32.SetConsoleCP(input_code_page)
                    kernel32.SetConsoleOutputCP(output_code_page)


_utf8_console = _Utf8Console()


@contextlib.contextmanager
def _sigttou_mask(*, block: bool) -> Generator[None]:
    """Block or unblock SIGTTOU for the calling thread, then restore its signal mask.

    Blocked, SIGTTOU cannot stop a thread that changes the terminal from the background, as a
    handoff does, and the mask is the thread's own, so other threads keep normal job control.
    A child inherits the mask for life, though, so a child started during a lend is spawned
    with SIGTTOU unblocked. Spawning touches no terminal, so that cannot stop this thread.

    :param block: True to block SIGTTOU, False to unblock it
    """
    import signal

    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK if block else signal.SIG_UNBLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)


@contextlib.contextmanager
def _session_leader_job_stops(pipeline: "ProcReader | None" = None) -> Generator[None]:
    """Spawn a process for a terminal pipeline's job with the same Ctrl-Z behavior as cmd2.

    A session leader's job has no outer shell to resume it, so Ctrl-Z must not stop any part
    of it. A new process group would otherwise make SIGTSTP actionable again. An ignored
    signal stays ignored across exec, so ignore SIGTSTP while spawning.

    :param pipeline: the terminal pipeline whose job the process joins, if one is running already
    """
    import signal

    # A handler installed outside Python is reported as None, and Python could not reinstall it after the spawn. So it stays,
    # and the pipeline's watcher continues any stop in the job, having no handler to relay it to.
    if os.getpgrp() != os.getsid(0) or signal.getsignal(signal.SIGTSTP) is None:
        yield
        return
    # A stop the pipeline's watcher relayed to cmd2 meanwhile would be discarded, and the watcher would wait for cmd2 to resume
    # for good. Relays happen under the suspension lock, so hold it while SIGTSTP is ignored.
    with pipeline._suspension() if pipeline is not None else contextlib.nullcontext():
        previous = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        try:
            yield
        finally:
            signal.signal(signal.SIGTSTP, previous)


class ProcReader:
    """Used to capture stdout and stderr from a Popen process if any of those were set to subprocess.PIPE.

    If neither are pipes, then the process will run normally and no output will be captured.
    """

    def __init__(
        self,
        proc: PopenTextIO,
        stdout: StdSim | TextIO,
        stderr: StdSim | TextIO,
        *,
        terminal_fd: int | None = None,
        pipeline: "ProcReader | None" = None,
    ) -> None:
        """ProcReader initializer.

        :param proc: the Popen process being read from
        :param stdout: the stream to write captured stdout
        :param stderr: the stream to write captured stderr.
        :param terminal_fd: controlling terminal to lend to a POSIX process in its own group
        :param pipeline: terminal pipeline whose process group proc joined as a producer
        """
        self._proc = proc
        self._stdout = stdout
        self._stderr = stderr
        self._terminal_fd = terminal_fd
        self._pipeline = pipeline
        # Shell producers that joined this pipeline's process group
        self._joined: list[PopenTextIO] = []
        if pipeline is not None:
            pipeline._joined.append(proc)
        self._process_done = threading.Event()
        self._terminal_available = threading.Event()
        # Lends in progress, guarded by _terminal_lock. The terminal is available while any is.
        self._lends = 0
        self._terminal_lock = threading.RLock()
        self._job_resumed = threading.Event()
        # Set while the consumer is stopped, waiting for the terminal to read the keyboard or set its modes. Only then does it
        # need to be lent the terminal to go on.
        self._consumer_waiting = threading.Event()
        # Set by a thread that relays a pipeline's stop to cmd2's own job. Otherwise Ctrl-Z reached cmd2 directly, and cmd2
        # stops the pipeline itself.
        self._relaying_stop = False
        # One suspension of the whole job at a time, and how many have finished. A suspension continues the whole pipeline as
        # it ends, so a stop reported before it finished is already dealt with: see _suspend_with_cmd2().
        self._suspension_lock = threading.Lock()
        self._suspensions = 0
        # Set once job control has ended, which the watcher may outlive: see _manage_terminal()
        self._detached = False
        # The SIGTSTP handler job control installs, the only one that resumes a pipeline stopped for a relay
        self._stop_handler: Callable[[int, Any], None] | None = None
        if terminal_fd is not None:
            self._original_group = os.tcgetpgrp(terminal_fd)

        self._out_thread = threading.Thread(name="out_thread", target=self._reader_thread_func, kwargs={"read_stdout": True})

        self._err_thread = threading.Thread(name="err_thread", target=self._reader_thread_func, kwargs={"read_stdout": False})

        # Start the reader threads for pipes only
        if self._proc.stdout is not None:
            self._out_thread.start()
        if self._proc.stderr is not None:
            self._err_thread.start()

        # A terminal pipeline is reaped only by its watcher, which relays its stops once _manage_terminal() sets up job control
        if terminal_fd is not None:
            threading.Thread(name="pipe_job", target=self._wait_for_job, args=(terminal_fd,), daemon=True).start()

    def send_sigint(self) -> None:
        """Send a SIGINT to the process similar to if <Ctrl>+C were pressed."""
        import signal

        if sys.platform.startswith("win"):
            # cmd2 started the Windows process in a new process group. Therefore we must send
            # a CTRL_BREAK_EVENT since CTRL_C_EVENT signals cannot be generated for process groups.
            self._proc.send_signal(signal.CTRL_BREAK_EVENT)
        else:
            # Since cmd2 uses shell=True in its Popen calls, we need to send the SIGINT to the whole process group to make sure
            # it propagates further than the shell.
            self._signal_pipeline(signal.SIGINT)

    def terminate(self) -> None:
        """Terminate the process."""
        if self._terminal_fd is None:
            self._proc.terminate()
        else:
            import signal

            # Popen.terminate() polls first, which would compete with our waitpid thread. Once the watcher has reaped the
            # process, its ID may belong to another one.
            if self._proc.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._proc.pid, signal.SIGTERM)

    @property
    def _terminal_group(self) -> int | None:
        """Process group of a running terminal pipeline, which a producer may join, or None."""
        if self._terminal_fd is None or self._proc.returncode is not None:
            return None
        return self._proc.pid

    def _joined_group(self) -> int | None:
        """Process group of the pipeline's job, found through a shell producer that joined it.

        Pipelines lead their own group. A shell command that joined it, such as
        `shell sleep 100 | head -1`, can outlive the reaped consumer. cmd2 has not reaped that
        command yet, so its group is certain. Never use the consumer's own ID once it is
        reaped: the system may give it to an unrelated process.
        """
        for producer in self._joined:
            if producer.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    return os.getpgid(producer.pid)
        return None

    def _signal_pipeline(self, signum: int) -> bool:
        """Signal the pipeline's process group. Return whether any process could be signaled.

        The group may be gone, or hold only processes cmd2 may not signal: a zombie on
        macOS, or a program running as another user, such as sudo.
        """
        group_id = None
        # Once reaped, the process's ID may already belong to another process.
        if self._proc.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                group_id = os.getpgid(self._proc.pid)
        if group_id is None:
            group_id = self._joined_group()
        # Never signal our own group: that would stop or continue cmd2 itself, and other ProcReader callers may share it and
        # already received Ctrl-C.
        if group_id is None or group_id == os.getpgrp():
            return False
        try:
            os.killpg(group_id, signum)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    @staticmethod
    def _set_foreground_group(terminal_fd: int, group_id: int) -> None:
        """Transfer the terminal without stopping this background thread with SIGTTOU."""
        with _sigttou_mask(block=True):
            os.tcsetpgrp(terminal_fd, group_id)

    @contextlib.contextmanager
    def _manage_terminal(self) -> Generator[None]:
        """Suspend the shell's whole job on the main thread, and relay the pipeline's stops to it."""
        import signal

        terminal_fd = self._terminal_fd
        if terminal_fd is None:
            yield
            return
        previous_handler = signal.getsignal(signal.SIGTSTP)

        def suspend_job(signum: int, frame: Any) -> None:
            relayed = self._relaying_stop
            self._relaying_stop = False
            own_suspension = False
            try:
                if previous_handler != signal.SIG_DFL:
                    if callable(previous_handler):
                        previous_handler(signum, frame)
                    return
                # A signal handler must not raise into whatever the main thread was doing. A handoff fails only once the
                # terminal or the pipeline's group is gone.
                with contextlib.suppress(OSError):
                    if os.tcgetpgrp(terminal_fd) == self._proc.pid:
                        self._set_foreground_group(terminal_fd, self._original_group)
                # Ctrl-Z reached only cmd2's group, which owns the terminal between pipe writes. Stop the pipeline too, as a
                # shell stops its whole job. Should another thread be relaying a stop already, it has stopped the pipeline.
                if not relayed and self._suspension_lock.acquire(blocking=False):
                    own_suspension = True
                    self._signal_pipeline(signal.SIGSTOP)
                # Ignore our group-directed copy, then stop this thread synchronously. Wrappers in our job must stop too.
                # Unlike SIGSTOP, SIGTSTP is discarded for orphaned groups, which have no shell to resume them.
                signal.signal(signal.SIGTSTP, signal.SIG_IGN)
                try:
                    os.killpg(self._original_group, signal.SIGTSTP)
                    signal.signal(signal.SIGTSTP, signal.SIG_DFL)
                    signal.raise_signal(signal.SIGTSTP)
                finally:
                    signal.signal(signal.SIGTSTP, suspend_job)
            finally:
                try:
                    with contextlib.suppress(OSError):
                        if self._terminal_available.is_set() and os.tcgetpgrp(terminal_fd) == self._original_group:
                            self._set_foreground_group(terminal_fd, self._proc.pid)
                finally:
                    if own_suspension:
                        self._signal_pipeline(signal.SIGCONT)
                        self._suspensions += 1
                        self._suspension_lock.release()
                    self._job_resumed.set()

        # A handler installed outside Python, such as by an application embedding it, is reported as None, and Python could not
        # reinstall it. So it stays: Ctrl-Z does only what it does, and the watcher continues any stop in the pipeline's job,
        # having no handler to relay it to.
        if previous_handler is not None:
            self._stop_handler = suspend_job
            signal.signal(signal.SIGTSTP, suspend_job)
        try:
            yield
        finally:
            # The watcher may outlive job control, if waiting for the pipeline failed. Without suspend_job(), a stop it relayed
            # would stop cmd2 with nothing to resume either. So detach it first, under the lock a suspension holds, and it
            # relays no more.
            with self._suspension():
                self._detached = True
                if previous_handler is not None:
                    signal.signal(signal.SIGTSTP, previous_handler)

    @contextlib.contextmanager
    def _suspension(self) -> Generator[None]:
        """Hold the lock that allows one suspension of the whole job at a time.

        It is awaited in short polls: on the main thread, a suspension in progress may need
        this thread to run suspend_job().
        """
        while not self._suspension_lock.acquire(timeout=0.1):
            pass
        try:
            yield
        finally:
            self._suspension_lock.release()

    @contextlib.contextmanager
    def _lend_terminal(self) -> Generator[None]:
        """Lend the terminal only while writing to or waiting for the consumer.

        Command code retains foreground access between writes, including arbitrary
        reads through input(), getpass(), or third-party libraries. Lending during
        writes lets an interactive consumer drain a full pipe without deadlocking.
        """
        terminal_fd = self._terminal_fd
        if terminal_fd is None or self._proc.returncode is not None:
            yield
            return
        # While the consumer owns the terminal, a signal handler run on this thread may still write diagnostics to it. Block
        # SIGTTOU for the lend only: a signal mask survives fork and exec, so blocking it for the whole pipeline would leak
        # into every child the command starts. A child started during a lend must unblock it; see _sigttou_mask().
        with _sigttou_mask(block=True):
            with self._terminal_lock:
                try:
                    # Lend only a terminal cmd2's job owns. Once the shell's bg has continued cmd2 in the background, the shell
                    # owns it, and taking it would leave the shell unable to read its terminal. A consumer that needs it then
                    # stops, and the watcher relays that stop to cmd2's job, as a shell's own background pipeline would stop.
                    if os.tcgetpgrp(terminal_fd) in (self._original_group, self._proc.pid):
                        self._set_foreground_group(terminal_fd, self._proc.pid)
                except OSError as error:
                    # The group can disappear before the watcher has recorded its exit. Linux reports a group that no longer
                    # exists as EPERM.
                    if error.errno not in (errno.ESRCH, errno.EINVAL, errno.EPERM):
                        raise
                self._lends += 1
                self._terminal_available.set()
            try:
                yield
            finally:
                with self._terminal_lock:
                    self._lends -= 1
                    # Lends overlap: do_shell() lends for as long as a shell producer runs, while a pipe write from another
                    # thread lends and returns. Only the last to end takes the terminal back, or the producer would stop with
                    # SIGTTIN.
                    if not self._lends:
                        self._terminal_available.clear()
                        # This fails only once the terminal is gone, as after a hangup. It must not replace an exception in
                        # flight, such as the SystemExit of SIGHUP.
                        with contextlib.suppress(OSError):
                            if os.tcgetpgrp(terminal_fd) == self._proc.pid:
                                self._set_foreground_group(terminal_fd, self._original_group)

    def _wait_for_job(self, terminal_fd: int) -> None:
        """Reap a foreground pipeline and relay its stops to the outer shell's job.

        This is the only waitpid caller for a terminal pipeline. Watching on a separate
        thread also catches Ctrl-Z while the command is blocked writing to its pipe.
        """
        import signal

        try:
            self._watch_job(terminal_fd)
        except ChildProcessError:
            # The application ignores SIGCHLD, so the system reaped the pipeline and its exit status is lost. Popen.wait()
            # reports success in this case, too.
            self._proc.returncode = 0
        except OSError:
            # Job control failed, for instance because the terminal hung up. Still reap the pipeline: until it has a return
            # code, cmd2 treats it as running.
            self._signal_pipeline(signal.SIGCONT)
            try:
                _, status = os.waitpid(self._proc.pid, 0)
                self._proc.returncode = os.waitstatus_to_exitcode(status)
            except ChildProcessError:
                self._proc.returncode = 0
        finally:
            try:
                with self._terminal_lock, contextlib.suppress(OSError):
                    # A shell producer in this group may outlive the consumer and still read the terminal. While a lend is
                    # active, its holder returns the terminal.
                    if not self._terminal_available.is_set() and os.tcgetpgrp(terminal_fd) == self._proc.pid:
                        self._set_foreground_group(terminal_fd, self._original_group)
            finally:
                self._process_done.set()

    def _watch_job(self, terminal_fd: int) -> None:
        """Wait for a foreground pipeline to exit, relaying its stops. See _wait_for_job()."""
        import signal

        while True:
            # The suspensions finished before this wait. One that finishes during it continues the consumer, which is reported
            # too, even when the continue discards a stop the wait has not collected. So the count is read afresh after each
            # change of state.
            seen = self._suspensions
            _, status = os.waitpid(self._proc.pid, os.WUNTRACED | os.WCONTINUED)
            if os.WIFCONTINUED(status):
                continue
            if not os.WIFSTOPPED(status):
                self._proc.returncode = os.waitstatus_to_exitcode(status)
                return
            if os.WSTOPSIG(status) in (signal.SIGTTIN, signal.SIGTTOU):
                # Command code owns the terminal between pipe writes. Defer consumer terminal access until the next write or
                # final wait.
                self._consumer_waiting.set()
                while True:
                    self._terminal_available.wait(0.1)
                    with self._terminal_lock:
                        # A stopped consumer can be killed before another write. Keep reaping even while command code owns the
                        # terminal.
                        recent = self._suspensions
                        pid, pending_status = os.waitpid(self._proc.pid, os.WNOHANG | os.WUNTRACED)
                        if pid:
                            if not os.WIFSTOPPED(pending_status):
                                self._consumer_waiting.clear()
                                self._proc.returncode = os.waitstatus_to_exitcode(pending_status)
                                return
                            # A newer stop: the one a suspension would deal with.
                            seen = recent
                        # A short write may already have returned the terminal. Do not turn that ordinary handoff into a job
                        # suspension.
                        if not self._terminal_available.is_set():
                            continue
                        self._consumer_waiting.clear()
                        foreground = os.tcgetpgrp(terminal_fd)
                        if foreground == self._proc.pid:
                            # A group that died since is reaped by the next waitpid.
                            self._signal_pipeline(signal.SIGCONT)
                        break
                if foreground == self._proc.pid:
                    continue

            self._suspend_with_cmd2(terminal_fd, seen)

    def _suspend_with_cmd2(self, terminal_fd: int, seen: int) -> None:
        """Relay a stop in the pipeline's job to cmd2's own, and continue the pipeline once cmd2 resumes.

        Ctrl-Z stops every process of the job that does not ignore it, and each stop may be
        reported: the consumer's to its watcher, a producer's to the thread that waits for it.
        Only the first to arrive suspends the job. A suspension ends by continuing the whole
        pipeline, so a stop reported before it finished needs nothing more.

        :param terminal_fd: the controlling terminal
        :param seen: the number of finished suspensions when the stop was reported
        """
        import signal

        with self._suspension():
            if self._suspensions != seen or self._detached:
                return
            # Only suspend_job() resumes a pipeline stopped for a relay. Should it not be SIGTSTP's handler, because command
            # code replaced it or ignored the signal, or job control left a handler installed outside Python, the pipeline
            # would stay stopped for good. So it goes on, as when cmd2 ignores Ctrl-Z. Like a suspension, that deals with
            # every stop reported before it.
            if self._stop_handler is None or signal.getsignal(signal.SIGTSTP) is not self._stop_handler:
                self._signal_pipeline(signal.SIGCONT)
                self._suspensions += 1
                return
            try:
                with self._terminal_lock:
                    if os.tcgetpgrp(terminal_fd) == self._proc.pid:
                        self._set_foreground_group(terminal_fd, self._original_group)
            except OSError:
                # Job control failed, for instance because the terminal hung up, and no shell is left to resume the job. A
                # stopped producer would keep the consumer's pipe open, and cmd2 would wait for good. So the pipeline goes on.
                self._signal_pipeline(signal.SIGCONT)
                self._suspensions += 1
                return
            # Stop every terminal reader before returning control to the outer shell.
            self._signal_pipeline(signal.SIGSTOP)
            self._job_resumed.clear()
            self._relaying_stop = True
            # Signal the main thread itself. Only it runs Python signal handlers, and a process-directed signal may be taken by
            # another thread while the main thread sleeps in a system call, which then never returns to run the handler.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTSTP)
            self._job_resumed.wait()
            self._signal_pipeline(signal.SIGCONT)
            self._suspensions += 1

    def _relay_producer_stop(self, seen: int) -> None:
        """Suspend the shell's whole job for a stopped producer that joined this pipeline.

        The consumer need not stop with it: it may ignore Ctrl-Z, or be gone already, and
        then nothing else would relay the stop.

        :param seen: the number of finished suspensions when the stop was reported
        """
        if self._terminal_fd is not None:
            self._suspend_with_cmd2(self._terminal_fd, seen)

    def _wait_for_producer(self, pipeline: "ProcReader", timeout: float | None) -> None:
        """Wait for a producer in a terminal pipeline's job, relaying its job-control stops.

        This is the only waitpid caller for such a producer. It polls so that the main
        thread keeps returning to Python code, where signal handlers run.
        """
        import time

        deadline = None if timeout is None else time.monotonic() + timeout
        while self._proc.returncode is None:
            # As in _watch_job(), a suspension's continue is reported, so the count stays current.
            seen = pipeline._suspensions
            try:
                pid, status = os.waitpid(self._proc.pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                # The application ignores SIGCHLD. As Popen.wait() does, report success.
                self._proc.returncode = 0
                return
            if not pid or os.WIFCONTINUED(status):
                if deadline is not None and time.monotonic() >= deadline:
                    raise subprocess.TimeoutExpired(self._proc.args, timeout or 0)
                time.sleep(0.05)
            elif os.WIFSTOPPED(status):
                pipeline._relay_producer_stop(seen)
            else:
                self._proc.returncode = os.waitstatus_to_exitcode(status)

    def _wait_for_exit(self, timeout: float | None = None) -> None:
        """Wait for process exit without competing with the terminal job's waitpid thread.

        :param timeout: maximum seconds to wait, or None to wait indefinitely
        :raises subprocess.TimeoutExpired: if the process is still running after timeout
        """
        if self._pipeline is not None:
            self._wait_for_producer(self._pipeline, timeout)
        elif self._terminal_fd is None:
            self._proc.wait(timeout)
        elif timeout is None:
            # A process-directed signal may reach a worker thread. Python still runs its handler on the main thread, so
            # periodically return from the wait to dispatch it even when the main thread's system call was not interrupted.
            while not self._process_done.wait(0.1):
                pass
        elif not self._process_done.wait(timeout):
            raise subprocess.TimeoutExpired(self._proc.args, timeout)

    def wait(self) -> None:
        """Wait for the process to finish."""
        if self._terminal_fd is not None:
            with self._lend_terminal():
                self._wait_for_exit()
        elif self._pipeline is not None:
            # Only this wait reaps a producer in a pipeline's job. Until it does, the reader threads wait for its return code.
            self._wait_for_exit()
        if self._out_thread.is_alive():
            self._out_thread.join()
        if self._err_thread.is_alive():
            self._err_thread.join()

        # Handle case where the process ended before the last read could be done.
        # This will return None for the streams that weren't pipes.
        out, err = self._proc.communicate()

        if out:
            self._write_bytes(self._stdout, out)
        if err:
            self._write_bytes(self._stderr, err)

    def _reader_thread_func(self, read_stdout: bool) -> None:
        """Thread function that reads a stream from the process.

        :param read_stdout: if True, then this thread deals with stdout. Otherwise it deals with stderr.
        """
        if read_stdout:
            read_stream = self._proc.stdout
            write_stream = self._stdout
        else:
            read_stream = self._proc.stderr
            write_stream = self._stderr

        # The thread should have been started only if this stream was a pipe
        if read_stream is None:
            raise ValueError("read_stream is None")

        # Run until process completes
        polled = self._terminal_fd is None and self._pipeline is None
        while (self._proc.poll() if polled else self._proc.returncode) is None:
            available = read_stream.peek()  # type: ignore[attr-defined]  # ty: ignore[unresolved-attribute]
            if available:
                read_stream.read(len(available))
                self._write_bytes(write_stream, available)

    @staticmethod
    def _write_bytes(stream: StdSim | TextIO, to_write: bytes | str) -> None:
        """Write bytes to a stream.

        :param stream: the stream being written to
        :param to_write: the bytes being written.
        """
        if isinstance(to_write, str):
            to_write = to_write.encode()

        # BrokenPipeError can occur if output is being piped to a process that closed
        with contextlib.suppress(BrokenPipeError):
            stream.buffer.write(to_write)


class _DescriptorRelay:
    """Carry output that subprocesses write to a terminal pipeline's descriptor.

    A subprocess given :meth:`_PipelineWriter.fileno` writes on its own, so cmd2 cannot lend
    the terminal write by write. It writes into this relay's pipe instead, and a thread passes
    that output on to the consumer. The consumer is lent the terminal while a producer is
    blocked on the relay's full pipe, since only then does it need the terminal to make
    progress. Otherwise command code keeps it, as it does between cmd2's own writes.
    """

    def __init__(self, out_fd: int, reader: ProcReader) -> None:
        """Start relaying to out_fd, a descriptor the relay takes ownership of.

        :param out_fd: the consumer's pipe
        :param reader: the terminal pipeline that reads out_fd
        """
        self._out_fd = out_fd
        self._reader = reader
        # write_fd is the descriptor handed to producers. _PipelineWriter closes it; once every producer has closed its copy
        # too, the relay reads EOF and closes the consumer's pipe.
        self._in_fd, self.write_fd = os.pipe()
        self._write_fd_open = True
        self._lock = threading.Condition()
        # Bytes read from the relay's pipe, and bytes passed on to the consumer's pipe
        self._received = 0
        self._sent = 0
        self._done = False
        threading.Thread(name="pipe_relay", target=self._relay, daemon=True).start()

    def close_write_fd(self) -> None:
        """Close cmd2's copy of the producers' descriptor. The relay finishes once theirs close."""
        with self._lock:
            if self._write_fd_open:
                os.close(self.write_fd)
                self._write_fd_open = False

    def _unread(self) -> int:
        """Bytes producers have written that the relay has not read yet. Requires _lock."""
        import fcntl
        import struct
        import termios

        if self._done:
            return 0
        return int(struct.unpack("i", fcntl.ioctl(self._in_fd, termios.FIONREAD, b"\0" * 4))[0])

    def _producer_blocked(self) -> bool:
        """Whether the relay's pipe is full, which suggests a producer is waiting on the consumer.

        Only suggests: a producer that has just exited can leave the pipe full.
        """
        import select

        with self._lock:
            if not self._write_fd_open:
                # The command is done. ProcReader.wait() lends the terminal from here on.
                return False
            poller = select.poll()
            poller.register(self.write_fd, select.POLLOUT)
            return not poller.poll(0)

    def flush(self) -> None:
        """Wait until output already written to the relay has reached the consumer's pipe.

        cmd2's own writes go straight to the consumer's pipe, so they wait for this first to
        keep their order with the output of a producer that has finished. The wait is in short
        polls so that the main thread still runs Python signal handlers.
        """
        with self._lock:
            target = self._received + self._unread()
            while not self._done and self._sent < target:
                self._lock.wait(0.1)

    def _relay(self) -> None:
        """Pass producer output on to the consumer until producers close or the consumer exits."""
        import select

        poller = select.poll()
        poller.register(self._out_fd, select.POLLOUT)
        incoming = select.poll()
        incoming.register(self._in_fd, select.POLLIN)
        lend = contextlib.ExitStack()
        lending = False
        try:
            while True:
                # Wait for output outside the lock, then take and count it under the lock. Output taken out of the pipe but not
                # yet counted would look passed on to idle() and flush(), and cmd2's next write could overtake it.
                incoming.poll()
                with self._lock:
                    data = os.read(self._in_fd, 65536)
                    self._received += len(data)
                if not data:
                    return
                view = memoryview(data)
                written = 0
                while written < len(view):
                    # Once there is room, a write of at most PIPE_BUF bytes does not block.
                    if poller.poll(100):
                        count = os.write(self._out_fd, view[written : written + select.PIPE_BUF])
                        written += count
                        with self._lock:
                            self._sent += count
                            self._lock.notify_all()
                    elif not lending and self._reader._consumer_waiting.is_set() and self._producer_blocked():
                        # Lend only to a consumer that is stopped waiting for the terminal. One that never touches it, however
                        # slowly it reads, drains the pipe without a lend. So a lend never outlives a producer that finishes as
                        # the consumer reads.
                        lend.enter_context(self._reader._lend_terminal())
                        lending = True
                    if lending and not self._producer_blocked():
                        # A producer that is not waiting does not need the consumer to go on. It may have finished, and command
                        # code that resumes must own the terminal: a read from the background would stop cmd2.
                        lend.close()
                        lending = False
        except OSError:
            # The consumer exited. Closing the relay's pipe below passes that on to producers, which get EPIPE or SIGPIPE just
            # as they would writing to the consumer directly.
            return
        finally:
            with contextlib.suppress(OSError):
                lend.close()
            with self._lock:
                self._done = True
                os.close(self._in_fd)
                os.close(self._out_fd)
                self._lock.notify_all()


class _PipelineWriter(io.FileIO):
    """A pipe whose blocking writes temporarily give the consumer terminal access."""

    def __init__(self, fd: int, reader: ProcReader, interruptible: Callable[[], bool] = lambda: True) -> None:
        """Take ownership of a pipe descriptor managed by reader.

        :param fd: the write end of the consumer's pipe
        :param reader: the terminal pipeline that reads fd
        :param interruptible: whether a write may raise KeyboardInterrupt now, rather than
                              BrokenPipeError, when Ctrl-C has ended the consumer
        """
        import select

        super().__init__(fd, "w")
        self._reader = reader
        self._interruptible = interruptible
        self._relay: _DescriptorRelay | None = None
        # Threads may start producers at the same time. A second relay would replace the first, and close() would then leave
        # the first one's descriptor open: the consumer would never see EOF.
        self._relay_lock = threading.Lock()
        self._poller = select.poll()
        self._poller.register(fd, select.POLLOUT)
        # Set when Ctrl-C interrupted a write that had sent part of its data: see write()
        self._interrupted = False

    def fileno(self) -> int:
        """Return a descriptor for subprocesses, such as a shell command's stdout.

        A subprocess writes to it directly, bypassing :meth:`write`. It is the write end of a
        relay (see :class:`_DescriptorRelay`), which lends the consumer the terminal whenever
        such a producer is waiting for the consumer to drain the pipe.
        """
        with self._relay_lock:
            if self.closed:
                raise ValueError("I/O operation on closed file")
            if self._relay is None:
                self._relay = _DescriptorRelay(os.dup(super().fileno()), self._reader)
            return self._relay.write_fd

    def feeds(self, pipeline: ProcReader) -> bool:
        """Whether this is the pipe to pipeline's consumer."""
        return self._reader is pipeline

    def producer_fileno(self) -> int:
        """Return the consumer's pipe itself, for a shell producer that joins the pipeline's job.

        Such a producer runs with the terminal lent for as long as it runs, so it needs no relay.
        Output producers already wrote to the relay goes first, which needs that lend too.
        """
        if self._relay is not None:
            self._relay.flush()
        return super().fileno()

    def close(self) -> None:
        """Close the pipe. The consumer sees EOF once every producer has closed its descriptor too."""
        with self._relay_lock:
            try:
                super().close()
            finally:
                if self._relay is not None:
                    self._relay.close_write_fd()

    def write(self, b: Any) -> int:
        """Write all of b, lending the consumer the terminal whenever the pipe is full.

        A consumer such as less stops reading its pipe to read the keyboard, so a write
        that would block finishes under a lend. What the pipe takes at once needs none,
        which spares each flush a terminal handoff. Once lent, the terminal stays lent for
        the rest of the buffer: returning it between two writes, even for an instant,
        would stop a consumer that had just resumed a terminal read with SIGTTIN.

        A full pipe is awaited in short polls rather than in one blocking write. Only
        the main thread runs Python signal handlers, and the job-control stop ProcReader
        relays may wake another thread, so the main thread has to return to Python code
        on its own for the handler to run. The descriptor itself stays blocking: a shell
        command inherits it, and a producer that found it non-blocking would fail with
        EAGAIN once the pipe filled.

        Ctrl-C can raise KeyboardInterrupt between two chunks, once some are in the pipe.
        BufferedWriter takes an exception to mean that nothing was written, and would send
        those chunks again. So such a write reports what it sent, and the next one, which
        BufferedWriter makes straight away for the rest, raises the interrupt instead.
        """
        import select
        import signal

        if self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt
        view = memoryview(b).cast("B")
        fd = super().fileno()
        written = 0
        try:
            # Once a relay exists, its thread writes to the consumer's pipe too, and can fill it between a check for room and
            # the write. So only without one is room checked without a lend. Output a producer wrote to the relay comes first
            # in any case.
            if self._relay is None:
                # Once there is room, a write of at most PIPE_BUF bytes does not block.
                while written < len(view) and self._poller.poll(0):
                    written += os.write(fd, view[written : written + select.PIPE_BUF])
            if written < len(view):
                with self._reader._lend_terminal():
                    if self._relay is not None:
                        self._relay.flush()
                    while written < len(view):
                        if self._poller.poll(100):
                            written += os.write(fd, view[written : written + select.PIPE_BUF])
        except BrokenPipeError:
            # Ctrl-C during a blocking write must cancel the command, even if it normally catches BrokenPipeError. Raise here
            # rather than signaling asynchronously: a late signal could interrupt redirection cleanup. Code that cmd2's SIGINT
            # handler would not interrupt, such as that cleanup, gets the BrokenPipeError instead. So does any thread but the
            # main one, which Ctrl-C does not interrupt either.
            if threading.current_thread() is threading.main_thread() and self._interruptible():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._reader._wait_for_exit(0.2)
                if self._reader._proc.returncode in (-signal.SIGINT, 128 + signal.SIGINT):
                    raise KeyboardInterrupt from None
            raise
        except KeyboardInterrupt:
            if not written:
                raise
            self._interrupted = True
        return written


def _pipeline_writer_of(stream: object) -> _PipelineWriter | None:
    """Return the terminal pipeline's pipe a text stream writes to, or None if it writes to anything else."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, _PipelineWriter) else None


class ContextFlag:
    """A context manager which is also used as a boolean flag value within the default sigint handler.

    Its main use is as a flag to prevent the SIGINT handler in cmd2 from raising a KeyboardInterrupt
    while a critical code section has set the flag to True. Because signal handling is always done on the
    main thread, this class is not thread-safe since there is no need.
    """

    def __init__(self) -> None:
        """When this flag has a positive value, it is considered set. When it is 0, it is not set.

        It should never go below 0.
        """
        self._count = 0

    def __bool__(self) -> bool:
        """Define the truth value of an object when it is used in a boolean context."""
        return self._count > 0

    def __enter__(self) -> None:
        """When a with block is entered, the __enter__ method of the context manager is called."""
        self._count += 1

    def __exit__(self, *args: object) -> None:
        """When the execution flow exits a with statement block this is called, regardless of whether an exception occurred."""
        self._count -= 1
        if self._count < 0:
            raise ValueError("count has gone below 0")


class RedirectionSavedState:
    """Created by each command to store information required to restore state after redirection."""

    def __init__(
        self,
        self_stdout: "StdSim | TextIO",
        pipe_proc_reader: "ProcReader | None",
        saved_redirecting: bool,
    ) -> None:
        """RedirectionSavedState initializer.

        :param self_stdout: saved value of Cmd.stdout
        :param pipe_proc_reader: saved value of Cmd._cur_pipe_proc_reader
        :param saved_redirecting: saved value of Cmd._redirecting.
        """
        # Tells if command is redirecting
        self.redirecting = False

        # Used to restore Cmd.stdout after redirection ends
        self.saved_self_stdout = self_stdout

        # Used to restore values after command ends regardless of whether the command redirected
        self.saved_pipe_proc_reader = pipe_proc_reader
        self.saved_redirecting = saved_redirecting

        # Holds what a pipe needs until its pipe process has been reaped: on Windows a UTF-8 console, and for a terminal
        # pipeline its job control
        self.pipe_context: contextlib.ExitStack | None = None


def categorize(func: Callable[..., Any] | Iterable[Callable[..., Any]], category: str) -> None:
    """Categorize a function.

    The help command output will group the passed function under the
    specified category heading

    :param func: function or Iterable of functions to categorize
    :param category: category to put it in

    Example:
    ```py
    import cmd2
    class MyApp(cmd2.Cmd):
      def do_echo(self, arglist):
        self.poutput(' '.join(arglist)

      cmd2.utils.categorize(do_echo, "Text Processing")
    ```

    For an alternative approach to categorizing commands using a decorator, see [cmd2.decorators.with_category][]

    """
    funcs = func if isinstance(func, Iterable) else (func,)

    for cur_func in funcs:
        if inspect.ismethod(cur_func):
            setattr(cur_func.__func__, constants.COMMAND_ATTR_HELP_CATEGORY, category)
        else:
            setattr(cur_func, constants.COMMAND_ATTR_HELP_CATEGORY, category)


def get_defining_class(meth: Callable[..., Any]) -> type[Any] | None:
    """Attempt to resolve the class that defined a method.

    Inspired by implementation published here:
        https://stackoverflow.com/a/25959545/1956611

    :param meth: method to inspect
    :return: class type in which the supplied method was defined. None if it couldn't be resolved.
    """
    if isinstance(meth, functools.partial):
        return get_defining_class(meth.func)
    if inspect.ismethod(meth) or (
        inspect.isbuiltin(meth) and hasattr(meth, "__self__") and hasattr(meth.__self__, "__class__")
    ):
        for cls in inspect.getmro(meth.__self__.__class__):
            if meth.__name__ in cls.__dict__:
                return cls
        meth = getattr(meth, "__func__", meth)  # fallback to __qualname__ parsing
    if inspect.isfunction(meth):
        cls = getattr(inspect.getmodule(meth), meth.__qualname__.split(".<locals>", 1)[0].rsplit(".", 1)[0])
        if isinstance(cls, type):
            return cls
    return cast(type, getattr(meth, "__objclass__", None))  # handle special descriptor objects


class CustomCompletionSettings:
    """Used by cmd2.Cmd.complete() to complete strings other than command arguments."""

    def __init__(self, parser: "Cmd2ArgumentParser", *, preserve_quotes: bool = False) -> None:
        """CustomCompletionSettings initializer.

        :param parser: arg parser defining format of string being completed
        :param preserve_quotes: if True, then quoted tokens will keep their quotes when processed by
                                ArgparseCompleter. This is helpful in cases when you're completing
                                flag-like tokens (e.g. -o, --option) and you don't want them to be
                                treated as argparse flags when quoted. Set this to True if you plan
                                on passing the string to argparse with the tokens still quoted.
        """
        self.parser = parser
        self.preserve_quotes = preserve_quotes


def strip_doc_annotations(doc: str) -> str:
    """Strip annotations from a docstring leaving only the text description.

    :param doc: documentation string
    """
    # Attempt to locate the first documentation block
    cmd_desc = ""
    found_first = False
    for doc_line in doc.splitlines():
        stripped_line = doc_line.strip()

        # Don't include :param type lines
        if stripped_line.startswith(":"):
            if found_first:
                break
        elif stripped_line:
            if found_first:
                cmd_desc += "\n"
            cmd_desc += stripped_line
            found_first = True
        elif found_first:
            break
    return cmd_desc


def similarity_function(s1: str, s2: str) -> float:
    """Ratio from s1,s2 may be different to s2,s1. We keep the max.

    See https://docs.python.org/3/library/difflib.html#difflib.SequenceMatcher.ratio
    """
    return max(SequenceMatcher(None, s1, s2).ratio(), SequenceMatcher(None, s2, s1).ratio())


MIN_SIMIL_TO_CONSIDER = 0.7


def suggest_similar(
    requested_command: str, options: Iterable[str], similarity_function_to_use: Callable[[str, str], float] | None = None
) -> str | None:
    """Given a requested command and an iterable of possible options returns the most similar (if any is similar).

    :param requested_command: The command entered by the user
    :param options: The list of available commands to search for the most similar
    :param similarity_function_to_use: An optional callable to use to compare commands
    :return: The most similar command or None if no one is similar
    """
    proposed_command = None
    best_simil = MIN_SIMIL_TO_CONSIDER
    requested_command_to_compare = requested_command.lower()
    similarity_function_to_use = similarity_function_to_use or similarity_function
    for each in options:
        simil = similarity_function_to_use(each.lower(), requested_command_to_compare)
        if best_simil < simil:
            best_simil = simil
            proposed_command = each
    return proposed_command


def get_types(func_or_method: Callable[..., Any]) -> tuple[dict[str, Any], Any]:
    """Use inspect.get_annotations() to extract type hints for parameters and return value.

    This is a thin convenience wrapper around inspect.get_annotations() that treats the return value
    annotation separately.

    :param func_or_method: Function or method to return the type hints for
    :return: tuple with first element being dictionary mapping param names to type hints
            and second element being the return type hint or None if there is no return value type hint
    :raises ValueError: if the `func_or_method` argument is not a valid object to pass to `inspect.get_annotations`
    """
    try:
        type_hints = inspect.get_annotations(func_or_method, eval_str=True)  # Get dictionary of type hints
    except TypeError as exc:
        raise ValueError("Argument passed to get_types should be a function or method") from exc
    ret_ann = type_hints.pop("return", None)  # Pop off the return annotation if it exists
    if inspect.ismethod(func_or_method):
        type_hints.pop("self", None)  # Pop off `self` hint for methods
    return type_hints, ret_ann


# Sorting keys for strings
ALPHABETICAL_SORT_KEY = su.norm_fold
NATURAL_SORT_KEY = natural_keys

# Application-wide sort key for strings
# Set it using cmd2.set_default_str_sort_key().
DEFAULT_STR_SORT_KEY: Callable[[str], str] = ALPHABETICAL_SORT_KEY


def set_default_str_sort_key(sort_key: Callable[[str], str]) -> None:
    """Set the application-wide sort key for strings."""
    global DEFAULT_STR_SORT_KEY  # noqa: PLW0603
    DEFAULT_STR_SORT_KEY = sort_key
