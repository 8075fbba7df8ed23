"""Uploading the artifacts of a run while it goes on, to a store that is not on this machine.

A thread of its own looks for files that are new or have changed. Settings, source and provenance are uploaded
when the run begins, checkpoints and other files some seconds after they are written, the rest on close. A
process that is killed loses what came after the last upload, and its run goes on from there on any machine.

What is uploaded is a snapshot: hard links, made the newest file first and uploaded the oldest first, so that
of files that belong together the store has a state in which the run could have been killed. Files that were
still being written are left for the next time. The store itself replaces a file in one step.
"""

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from src.utils.errors import first_line
from src.utils.files import link_or_copy
from src.utils.paths import display_path
from src.utils.process import this_process

from filelock import FileLock
from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)
LOOK_SECONDS = 1.0  # between two looks at the folder
BETWEEN_UPLOADS = 15.0  # seconds between two uploads of the same file
MAX_SHARE = 0.02  # of the time of a core: large files are uploaded less often
WRITING_SECONDS = 1.0  # a file that has not changed for so long is complete
LAST_SECONDS = 300.0  # for which uploading is tried again when the run has ended
LONGEST_END = 20.0  # seconds for the uploads of a run that was stopped
LAST_PAUSE = 10.0  # seconds between two of these attempts
GROWING = "logs"  # the artifact folder of files that are written all the time
# In the folder of the artifacts
SNAPSHOT, RECORD, LOCK = ".uploads", ".uploads.json", ".uploads.lock"

State = tuple[int, int]  # of a file: time of the last change, in nanoseconds, and size


class Uploads:
    """Uploads the files of a folder as artifacts of a run. Those whose name begins with a dot are drafts."""

    def __init__(self, client: MlflowClient, run_id: str, folder: Path) -> None:
        self.client, self.run_id, self.folder = client, run_id, folder
        self.uploaded = Record.read(folder).files
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._failure: Exception | None = None
        self._due = 0.0  # when files are uploaded again that the store has in another state

    def start(self, in_background: bool = True) -> None:
        """Begin to upload, in a thread that does not keep the process from ending.

        Args:
            in_background: else upload now what is there, and the rest in `finish`.
        """
        self._save_record()
        if in_background:
            self._start_thread()
        else:
            self._attempt()

    def finish(self, is_stopped: bool) -> None:
        """Upload what is not uploaded yet in its present state.

        Args:
            is_stopped: what has stopped the run may soon kill it. After some seconds the rest stays on this
                machine, with a warning.

        Raises:
            Exception: of MLflow or the store, if uploading has failed for minutes.
        """
        self._ending.set()
        if self._thread is None:
            self._start_thread()
        assert self._thread is not None
        self._thread.join(LONGEST_END if is_stopped else None)
        if self._thread.is_alive() or self._failure is not None:
            text = "not all artifacts are uploaded; they are in %s"
            log.warning(text, display_path(self.folder))
        if self._failure is not None and not is_stopped:
            raise self._failure

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._upload_all, name="uploads", daemon=True)
        self._thread.start()

    def _upload_all(self) -> None:
        pause = 0.0
        while not self._ending.wait(pause):
            self._attempt(WRITING_SECONDS)
            pause = LOOK_SECONDS if self._failure is None else BETWEEN_UPLOADS
        end = time.monotonic() + LAST_SECONDS
        self._attempt()
        while self._failure is not None and time.monotonic() < end:
            time.sleep(LAST_PAUSE)
            self._attempt()

    def _attempt(self, watched: float = 0) -> None:
        """Upload what is new. Of failures in a row the first one is a warning."""
        try:
            # Workers on one machine share the run of their study, and its folder
            with FileLock(self.folder / LOCK):
                self._upload(watched)
            self._failure = None
        except Exception as error:  # of whatever store: the training goes on
            if self._failure is None:
                text = "artifacts can't be uploaded now, which is tried again: %s"
                log.warning(text, first_line(error))
            self._failure = error

    def _upload(self, watched: float) -> None:
        """Upload the files that are new or have changed, and do not change for `watched` seconds."""
        start, found, known = time.thread_time(), dict(self._find()), {*self.uploaded}
        try:
            self._link(sorted(found, key=lambda name: found[name], reverse=True))
            linked = dict(_files(self.folder / SNAPSHOT))
            self._ending.wait(watched if linked else 0)
            for name in sorted(linked, key=lambda name: linked[name]):
                self._upload_file(name, linked[name])
        finally:
            if found:
                shutil.rmtree(self.folder / SNAPSHOT, ignore_errors=True)
                self._save_record()
        if known & found.keys():
            spent = time.thread_time() - start
            self._due = time.monotonic() + max(BETWEEN_UPLOADS, spent / MAX_SHARE)

    def _find(self) -> Iterator[tuple[str, State]]:
        """The files to upload now, by their names; all that are left when the run has ended."""
        is_end = self._ending.is_set()
        is_due = time.monotonic() >= self._due
        for name, state in _files(self.folder):
            is_wanted = is_end or (not _is_growing(name) and (is_due or name not in self.uploaded))
            if is_wanted and self.uploaded.get(name) != state:
                yield name, state

    def _link(self, names: Iterable[str]) -> None:
        for name in names:
            copy = self.folder / SNAPSHOT / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            keep = shutil.copy2 if _is_growing(name) else link_or_copy
            with suppress(FileNotFoundError):  # removed at this moment
                keep((self.folder / name).resolve(), copy)

    def _upload_file(self, name: str, state: State) -> None:
        """Upload a file of the snapshot, unless it is being written into."""
        file, folder = self.folder / SNAPSHOT / name, str(Path(name).parent)
        if _state(file) == state:
            self.client.log_artifact(self.run_id, str(file), None if folder == "." else folder)
        if _state(file) == state:  # still: else what was uploaded is not whole
            self.uploaded[name] = state

    def _save_record(self) -> None:
        Record(this_process(), self.uploaded).write(self.folder)


@dataclass(frozen=True)
class Record:
    """What a folder of artifacts is: whose, and the files that the store has in the same state."""

    process: str  # that wrote to the folder last, or whose artifacts were downloaded
    files: dict[str, State]

    @classmethod
    def read(cls, folder: Path) -> "Record":
        """The record of a folder; an empty one where there is none."""
        try:
            found = json.loads((folder / RECORD).read_text())
        except FileNotFoundError:
            return cls("", {})
        return cls(found["process"], {name: (*state,) for name, state in found["files"].items()})

    @classmethod
    def of_download(cls, folder: Path, process: str) -> "Record":
        """The record of a folder that was just downloaded."""
        return cls(process, dict(_files(folder)))

    def write(self, folder: Path) -> None:
        """Write it into the folder; workers, which share the run of their study, may do so at once."""
        draft = folder / f"{RECORD}.{this_process().replace(' ', '-')}"
        draft.write_text(json.dumps(asdict(self)))
        draft.replace(folder / RECORD)


def _files(folder: Path) -> Iterator[tuple[str, State]]:
    """The files of a folder by their relative paths, without drafts."""
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in (Path(where, name) for name in names if not name.startswith(".")):
            with suppress(FileNotFoundError):  # removed at this moment
                yield str(file.relative_to(folder)), _state(file)


def _state(file: Path) -> State:
    found = file.stat()
    return found.st_mtime_ns, found.st_size


def _is_growing(name: str) -> bool:
    return Path(name).parts[0] == GROWING
