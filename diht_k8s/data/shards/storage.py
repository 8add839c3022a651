"""Storage: paths, `file://`, `s3://`, `gs://` and `az://` through fsspec, atomic writes, clear errors.

A file is either absent or complete: local files are written under a temporary name and renamed, objects are put at
once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from diht_k8s.api.base import SECRET_KEYS, credential_variables, scheme_of
from diht_k8s.api.data import StorageRule
from diht_k8s.api.errors import DihtError, RetryableError, UserError, missing_package
from diht_k8s.api.redaction import redacted_text
from diht_k8s.data.shards.listing import (
    ListedFile,
    LocalSystem,
    ReplacedError,
    identity_of,
    infos_of,
    list_files,
    matches,
    s3_system,
)
from diht_k8s.data.shards.range_reads import RangeReader

if TYPE_CHECKING:
    from diht_k8s.data.shards.object_store import ObjectStore  # whose packages are optional

CLIENT: Final = {"retries": {"max_attempts": 9, "mode": "standard"}, "connect_timeout": 10, "read_timeout": 60}
"""Botocore's own retry of temporary refusals: full jitter, pauses of up to 1, 2, 4, ... 20 s."""
NO_CREDENTIALS: Final = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "DefaultCredentialsError",
    "ClientAuthenticationError",
    "CredentialUnavailableError",
)
"""Errors of clients that were given none."""
EXPIRED: Final = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
CLIENTS: Final = ("botocore", "aiobotocore", "aiohttp", "google", "azure")
"""Packages whose errors tell of a store."""
REMOVALS: Final = 32
"""Files that are removed at the same time: an object store answers each request in some 10 ms."""


_TEMPORARY: Final = re.compile(r"(?P<folder>.*/)?\.(?P<name>[^/]+)\.[A-Za-z0-9_]{8}\.tmp")
"""What a local write leaves behind if it is killed (`Storage.writer`)."""


def temporary_of(path: str) -> str | None:
    """The path of the file that a temporary file was to become; None for other files."""
    found = _TEMPORARY.fullmatch(path)
    return None if found is None else (found["folder"] or "") + found["name"]


class Storage:
    """Reads and writes URIs by the run's storage rules."""

    first = True
    """whether this process is of the first worker, which lists the sources (see `source_lists`)."""

    def __init__(self, rules: Sequence[StorageRule] = ()) -> None:
        self._rules = sorted(enumerate(rules), key=lambda item: -len(item[1].prefix))
        self._systems: dict[tuple[int, str, int], AbstractFileSystem] = {}
        """by process, because a forked one must not use its parent's connections, by scheme and by rule."""
        self._readers: dict[tuple[int, str, int], RangeReader] = {}

    def expand(self, patterns: Sequence[str]) -> list[str]:
        """The files that brace ranges and globs match (see `list_files`)."""
        return [found.uri for found in self.list_files(patterns)]

    def list_files(self, patterns: Sequence[str]) -> list[ListedFile]:
        """The files that brace ranges and globs match, each pattern expanded in order; a folder is one listing.

        Raises:
            UserError: a pattern matches nothing or a folder, or the same file is matched twice.
        """
        return self.list_sources([patterns])[0]

    def list_sources(self, groups: Sequence[Sequence[str]]) -> list[list[ListedFile]]:
        """The files of each source, as `list_files` gives those of one.

        Raises:
            UserError: as `list_files`; the same file is matched by two sources, so its pairs would come twice.
        """
        return list_files(groups, self._resolve, _errors)

    def matches(self, uri: str) -> list[str]:
        """The files that a pattern without braces matches, in order; possibly none. A folder raises UserError."""
        return [found.uri for found in matches([uri], self._resolve, _errors)]

    @contextlib.contextmanager
    def open(self, uri: str, *, seekable: bool = False) -> Iterator[IO[bytes]]:
        """Open for reading forwards, or anywhere; objects by ranges, ahead unless `seekable` (see `range_reads`)."""
        with _errors(uri, "read"):
            reader, path = self._reader(uri)
            opened = None if reader is None else reader.open_seekable if seekable else reader.open
            with open(path, "rb") if opened is None else opened(*_bucket_and_key(uri, path)) as file:
                yield cast("IO[bytes]", file)

    def read_bytes(self, uri: str) -> bytes:
        """The whole content."""
        with self.open(uri) as file:
            return file.read()

    def read_range(self, uri: str, begin: int, end: int, identity: str = "") -> bytes:
        """The bytes from `begin` to before `end`, by one request; fewer at the end of the file.

        Args:
            uri: of the file.
            begin: first byte.
            end: byte after the last one.
            identity: of the version that is meant; empty takes any.

        Raises:
            ReplacedError: the file on a disk has another identity.
            DataError: the object has another identity.
        """
        with _errors(uri, "read"):
            reader, path = self._reader(uri)
            if reader is not None:
                return reader.read(*_bucket_and_key(uri, path), begin, end, identity.partition("-")[2])
            with open(path, "rb") as file:
                found = identity_of({"size": os.fstat(file.fileno()).st_size}, path)
                if identity and found != identity:
                    raise ReplacedError(
                        f"{uri} was replaced ({identity} became {found}): leave input alone during a run"
                    )
                file.seek(begin)
                return file.read(end - begin)

    def read_text(self, uri: str) -> str:
        """The whole content as UTF-8.

        Raises:
            UserError: the content is not UTF-8.
        """
        try:
            return self.read_bytes(uri).decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{uri} is not UTF-8 text ({error}): check the file") from error

    def write_bytes(self, uri: str, data: bytes) -> None:
        """Write atomically, replacing what is there."""
        with self.writer(uri) as file:
            file.write(data)

    @contextlib.contextmanager
    def writer(self, uri: str) -> Iterator[IO[bytes]]:
        """A file for writing that appears at `uri` when the block ends without an error, and never otherwise."""
        system, path = self._resolve(uri)
        local = isinstance(system, LocalFileSystem)
        with _errors(uri, "write"):
            if local:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            folder = Path(path).parent if local else Path(tempfile.gettempdir())
            handle, name = tempfile.mkstemp(prefix=f".{Path(path).name}.", suffix=".tmp", dir=folder)
            temporary = Path(name)
            try:
                with os.fdopen(handle, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                if local:
                    temporary.chmod(0o644)
                    temporary.replace(path)
                else:
                    system.put_file(name, path)
            finally:
                temporary.unlink(missing_ok=True)

    def create(self, uri: str, data: bytes) -> bool:
        """Write only if the URI is free (a conditional PUT in object stores); False if it exists."""
        system, path = self._resolve(uri)
        with _errors(uri, "write"):
            try:
                if isinstance(system, LocalFileSystem):
                    try:
                        return self._create_local(Path(path), data)
                    except FileNotFoundError:  # another worker has just removed the folder
                        return self._create_local(Path(path), data)
                system.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if not _precondition_failed(error):
                    raise
                return False
        return True

    def _create_local(self, path: Path, data: bytes) -> bool:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:  # a file in the folder's place, which is not `path` itself
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(name).chmod(0o644)
            os.link(name, path)  # fails where the path exists, and never shows a partial file
        finally:
            Path(name).unlink(missing_ok=True)
        return True

    def exists(self, uri: str) -> bool:
        """Whether a file or folder exists; fsspec's own answer is no as well where a server or a disk gives none."""
        system, path = self._resolve(uri)
        with _errors(uri, "read"):
            try:
                system.info(path)
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def names(self, folder: str) -> list[str]:
        """Sorted names of the files directly below a folder, without temporary files; empty if there is no folder."""
        return [name for name in self._entries(folder, "file") if not name.endswith(".tmp")]

    def folders(self, folder: str) -> list[str]:
        """Sorted names of the folders directly below a folder; empty if there is no folder."""
        return self._entries(folder, "directory")

    def _entries(self, folder: str, kind: str) -> list[str]:
        system, path = self._resolve(folder)
        with _errors(folder, "list"):
            try:
                entries = cast("list[dict[str, Any]]", system.ls(path, detail=True))
            except FileNotFoundError:
                return []
        paths = (entry["name"].rstrip("/") for entry in entries if entry["type"] == kind)
        # some servers and consoles keep an object `folder/` for an empty folder, which is listed as its own content
        return sorted(name for found in paths if found != path.rstrip("/") and (name := found.rsplit("/", 1)[-1]))

    def size(self, uri: str) -> int:
        """Size in bytes."""
        system, path = self._resolve(uri)
        with _errors(uri, "read"):
            return int(system.info(path)["size"])

    def identity(self, uri: str) -> str:
        """A value that changes with the content: size and version of an object, size and mtime on disk."""
        system, path = self._resolve(uri)
        with _errors(uri, "read"):
            return identity_of(system.info(path), path)

    def identities(self, folder: str) -> dict[str, str]:
        """Name -> identity of the files directly below a folder, by a listing."""
        infos = infos_of(folder, self._resolve, _errors).items()
        return {path.rpartition("/")[2]: identity_of(i, path) for path, i in infos if i["type"] == "file"}

    def files(self, folder: str) -> list[str]:
        """Sorted paths of all files below a folder, relative to it; empty if there is no folder."""
        return sorted(self.sizes(folder))

    def sizes(self, folder: str) -> dict[str, int]:
        """Path relative to a folder -> bytes of all files below it, temporary ones too. Links are files of no size."""
        system, path = self._resolve(folder)
        with _errors(folder, "list"):
            found = cast("dict[str, dict[str, Any]]", system.find(path, detail=True))
        start = path.rstrip("/") + "/"
        return {
            name.removeprefix(start): 0 if info.get("islink") else int(info["size"])
            for name, info in found.items()
            if name.startswith(start) and not name.endswith("/")
        }

    def remove_files(self, folder: str, names: Sequence[str]) -> None:
        """Remove some files below a folder, then the local folders that became empty, the folder itself included.

        Args:
            folder: URI or path.
            names: paths relative to it, taken literally; absent ones are no error.
        """
        system, path = self._resolve(folder)

        def remove(name: str) -> None:
            with _errors(f"{folder}/{name}", "remove"), contextlib.suppress(FileNotFoundError):
                system.rm_file(f"{path.rstrip('/')}/{name}")

        with ThreadPoolExecutor(REMOVALS) as pool:
            list(pool.map(remove, names))
        if isinstance(system, LocalFileSystem):
            parents = {parent for name in names for parent in (Path(path) / name).parents}
            for parent in sorted(parents, key=lambda parent: -len(parent.parts)):
                if parent.is_relative_to(path):
                    with contextlib.suppress(OSError):  # it is not empty, or gone
                        parent.rmdir()

    def remove_named(self, folder: str, *patterns: str) -> None:
        """Remove the files directly below a folder whose names match a pattern, half-written ones too; others stay."""
        names = self._entries(folder, "file")
        meant = {name: temporary_of(name) or name for name in names}
        self.remove_files(folder, [name for name in names if any(fnmatchcase(meant[name], each) for each in patterns)])

    def location(self, uri: str) -> str:
        """One text for all spellings of a place: an absolute path without links, or `SCHEME://bucket/key`."""
        system, path = self._resolve(uri)
        return (
            os.path.realpath(path) if isinstance(system, LocalFileSystem) else f"{scheme_of(uri)}://{path.rstrip('/')}"
        )

    def remove(self, uri: str) -> None:
        """Remove a file or a folder with its content; absent ones are no error."""
        system, path = self._resolve(uri)
        with _errors(uri, "remove"), contextlib.suppress(FileNotFoundError):
            system.rm(path, recursive=True)

    def _reader(self, uri: str) -> tuple[RangeReader | None, str]:
        """The reader of a URI, None for a local file, and the path."""
        system, path = self._resolve(uri)
        if isinstance(system, LocalFileSystem):
            return None, path
        index, rule = self._rule(uri)
        scheme = uri.partition("://")[0]
        key = (os.getpid(), scheme, index)
        if key not in self._readers:
            client = _client(index, rule) if scheme == "s3" else system
            self._readers[key] = RangeReader(client, scheme)
        return self._readers[key], path

    def local_path(self, uri: str) -> Path | None:
        """The path of a local URI, None for an object store."""
        system, path = self._resolve(uri)
        return Path(path) if isinstance(system, LocalFileSystem) else None

    def _resolve(self, uri: str) -> tuple[AbstractFileSystem, str]:
        scheme, separator, path = uri.partition("://")
        if not separator or scheme == "file":
            return self._systems.setdefault((0, "file", -1), LocalSystem()), os.path.abspath(
                os.path.expanduser(uri.removeprefix("file://"))
            )
        if scheme not in SECRET_KEYS:
            raise UserError(f"{uri}: the scheme {scheme} is not allowed: use s3://, gs://, az://, file:// or a path")
        index, rule = self._rule(uri)
        key = (os.getpid(), scheme, index)
        if key not in self._systems:
            with _errors(uri, "reach"):
                self._systems[key] = _s3(index, rule) if scheme == "s3" else _cloud(scheme, index, rule)
        return self._systems[key], path

    def _rule(self, uri: str) -> tuple[int, StorageRule | None]:
        """The rule for a URI and its number; -1 without one."""
        return next(((i, r) for i, r in self._rules if _below(uri, r.prefix)), (-1, None))


def _precondition_failed(error: OSError) -> bool:
    """Whether a conditional PUT found an object; s3fs says so only if the server names the condition."""
    return _refusal(error.__cause__).get("Code") in ("PreconditionFailed", "412")


def _refusal(error: BaseException | None) -> Mapping[str, Any]:
    """Code and message of botocore's error, empty for any other; the `response` of others is a message of HTTP."""
    response = getattr(error, "response", None)
    return response.get("Error", {}) if isinstance(response, dict) else {}


def _bucket_and_key(uri: str, path: str) -> tuple[str, str]:
    bucket, _, key = path.partition("/")
    if not key:
        raise UserError(f"{uri} is a bucket, not an object: give a key behind it")
    return bucket, key


def _below(uri: str, prefix: str) -> bool:
    prefix = prefix.rstrip("/")
    return uri == prefix or uri.startswith(prefix + "/")


def _credentials(scheme: str, index: int) -> list[str | None]:
    """A rule's own credentials, which come in as DIHT_STORAGE_<index>_*; without them the cloud's usual chain holds."""
    return [os.environ.get(name) for name in credential_variables(f"{scheme}://", index).values()]


def _s3(index: int, rule: StorageRule | None) -> AbstractFileSystem:
    """The file system of one rule: lists and writes."""
    key, secret = _credentials("s3", index)
    return s3_system(
        endpoint_url=rule.endpoint_url if rule is not None else None,
        key=key,
        secret=secret,
        client_kwargs={"region_name": rule.region} if rule is not None and rule.region else {},
        config_kwargs=CLIENT,
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def _cloud(scheme: str, index: int, rule: StorageRule | None) -> ObjectStore:
    """The file system of one rule on Google's or Azure's store, whose packages are optional."""
    endpoint, (credentials,) = rule.endpoint_url if rule is not None else None, _credentials(scheme, index)
    try:
        if scheme == "gs":
            from diht_k8s.data.shards.google_store import GoogleStore as Store
        else:
            from diht_k8s.data.shards.azure_store import AzureStore as Store
    except ImportError as error:
        raise UserError(f"{scheme}:// needs more packages: {missing_package(error, scheme)}") from error
    return Store(endpoint, credentials)


def _client(index: int, rule: StorageRule | None) -> Any:
    """The client of one rule that reads."""
    import botocore.session
    from botocore.config import Config

    key, secret = _credentials("s3", index)
    return botocore.session.get_session().create_client(
        "s3",
        endpoint_url=rule.endpoint_url if rule is not None else None,
        region_name=rule.region if rule is not None else None,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(**CLIENT, max_pool_connections=32),
    )


@contextlib.contextmanager
def _errors(uri: str, verb: str) -> Iterator[None]:
    """Turn errors of file systems and stores' clients into ours, which say what failed, where, and what to do."""
    try:
        yield
    except DihtError:
        raise
    except OSError as error:
        raise _refused(error, uri, verb) or _of_os(error, uri, verb) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in CLIENTS:
            raise
        raise _refused(error, uri, verb) or _of_client(error, uri, verb) from error


def _of_os(error: OSError, uri: str, verb: str) -> DihtError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"cannot {verb} {uri}: it does not exist: check the path or bucket")
    if isinstance(error, PermissionError | NotADirectoryError | IsADirectoryError | FileExistsError):
        return UserError(f"cannot {verb} {uri}: {error.strerror or error}: check rights and credentials")
    if error.errno == errno.EROFS:
        return UserError(f"cannot {verb} {uri}: the file system is read-only: choose another place")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RetryableError(
            f"cannot {verb} {uri}: the disk is full: free space and start again, finished work is kept"
        )
    says = redacted_text(str(error))  # the URL of a request may be signed
    return RetryableError(f"cannot {verb} {uri}: {says}: start again when the storage answers")


def _of_client(error: Exception, uri: str, verb: str) -> DihtError:
    missing = type(error).__name__ in NO_CREDENTIALS
    return (UserError if missing else RetryableError)(
        f"cannot {verb} {uri}: {redacted_text(str(error))}: check endpointURL and credentials"
    )


def _refused(error: BaseException, uri: str, verb: str) -> DihtError | None:
    """Our error for a server's error code, from botocore's or s3fs's exception; None for codes that decide nothing."""
    refusal = _refusal(error) or _refusal(error.__cause__)
    code = str(refusal.get("Code", ""))
    if code in EXPIRED:
        return RetryableError(
            f"cannot {verb} {uri}: the credentials have expired ({code}): renew them and start again, finished work "
            "is kept"
        )
    says = " ".join(str(refusal.get("Message", "")).split())
    if code == "400" and says and not says.endswith(("Bad Request", "'Bad Request'")):
        return UserError(f"cannot {verb} {uri}: the server refuses it ({redacted_text(says)})")
    if code == "400":  # to a HEAD, which has no room for a reason
        return RetryableError(
            f"cannot {verb} {uri}: the server answers 400 without a reason, as where the credentials have expired: "
            "renew them and start again, finished work is kept"
        )
    if code in ("NoSuchKey", "NoSuchBucket", "404"):
        return UserError(f"cannot {verb} {uri}: it does not exist: check the path or bucket")
    if code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403"):
        return UserError(f"cannot {verb} {uri}: the server refuses it ({code}): check rights and credentials")
    return None
