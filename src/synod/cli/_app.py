"""The commands and their options; each does its work elsewhere."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar, cast

import typer

from synod import __version__
from synod.base import UserError

from ._output import INTERRUPTED, USER, complain, print_json, reported

if TYPE_CHECKING:
    from synod.client import Cell
    from synod.wire import Stat

T = TypeVar("T")

UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])
"""Of the click that this typer brings along, or of click itself: typer makes only its child public."""

app = typer.Typer(
    name="synod",
    help="Consensus, fenced locks and balanced requests for Python services on several machines.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

CellOption = Annotated[
    str, typer.Option("--cell", envvar="SYNOD_CELL", metavar="HOSTS", help="HOST:PORT,HOST:PORT,... of the cell")
]
JsonOption = Annotated[bool, typer.Option("--json", help="machine-readable output on stdout, and nothing else")]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="seconds to wait for the cell")]
DEFAULT_CELL = "127.0.0.1:2181"


def _version(wanted: bool) -> None:
    if wanted:
        from synod.server import is_compiled

        typer.echo(f"synod {__version__} ({'compiled' if is_compiled() else 'pure Python'} core)")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[  # noqa: ARG001 -- the callback does it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and which core runs")
    ] = False,
) -> None:
    return None


# -- replicas ----------------------------------------------------------------------------------------------


@app.command("format")
def format_(
    config: Annotated[str | None, typer.Argument(metavar="CONFIG", help="the replica's TOML file")] = None,
    new_cell: Annotated[bool, typer.Option("--new-cell", help="print a fresh cell_id for the configs")] = False,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
) -> None:
    """Give a replica's directory its identity, once.

    Example: synod format --new-cell; then, with that cell_id in every config: synod format replica-1.toml
    """
    with reported():
        import secrets

        if new_cell:
            typer.echo(secrets.token_hex(16))
            if config is None:
                return
        if config is None:
            raise UserError("format wants a CONFIG, or --new-cell")
        from synod.server import load_config
        from synod.storage import Identity, RealFileSystem, format_directory

        loaded = load_config(config, settings or ())
        identity = Identity(loaded.id, loaded.incarnation, loaded.configuration, secrets.randbits(62) + 1)
        format_directory(RealFileSystem(), loaded.data_dir, identity)
        sys.stderr.write(f"formatted {loaded.data_dir} for replica {loaded.id} of the cell {loaded.cell_id}\n")


@app.command()
def serve(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="the replica's TOML file")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a key of the config")
    ] = None,
) -> None:
    """Run one replica in the foreground, until SIGTERM.

    Example: synod serve replica-1.toml --set session.timeout_ms_min=1000
    """
    from ._serve import serve as run

    run(config, settings or ())


@app.command()
def up(
    replicas: Annotated[int, typer.Option(min=1, max=7, help="how many replicas")] = 3,
    client_port: Annotated[int, typer.Option(min=1, max=65_000, help="client port of the first replica")] = 2181,
    data_dir: Annotated[str, typer.Option(help="where the replicas' directories are")] = "./synod-data",
    restart: Annotated[bool, typer.Option("--restart", help="start a replica that died again")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="write a key into every replica's config")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a local cell, and stop it with Ctrl-C.

    Example: synod up --replicas 3 --data-dir ./synod-data
    """
    with reported():
        from ._up import Up

        raise SystemExit(
            Up(
                replicas=replicas,
                client_port=client_port,
                data_dir=Path(data_dir),
                restart=restart,
                settings=settings or [],
                as_json=as_json,
            ).run()
        )


# -- the tree ----------------------------------------------------------------------------------------------


def _demand_path(path: str, *, sequential: bool = False) -> None:
    """Refuse a mistake before anybody is called: a cell that does not answer would be blamed for it.

    Raises:
        BadArguments: no znode can have this path; nothing was sent.
    """
    from synod.client import validate_path

    validate_path(path, sequential=sequential)


def _with_cell(hosts: str, timeout: float, work: Callable[[Cell], Awaitable[T]]) -> T:
    from synod.client import Unavailable, connect

    from ._status import only_reads

    async def run() -> T:
        try:
            async with connect(hosts, timeout=timeout) as cell:
                return await work(cell)
        except Unavailable as failure:
            if await only_reads(hosts):
                raise Unavailable(
                    "a majority of the cell's replicas has no room on the disk, so that it can only read, and lets "
                    "nobody new in; nothing was changed: free some room, see `synod status`"
                ) from failure
            raise

    return asyncio.run(run())


def _value(value: str | None, file: str | None, *, hexadecimal: bool) -> bytes:
    """The value that the user means: the argument, standard input for `-`, or a file.

    Raises:
        UserError: it cannot be read, or is over the limit of the cell.
    """
    from synod.tree import VALUE_BYTES_MAX

    if (value is None) == (file is None):
        if value is None:
            return b""
        raise UserError("give a VALUE or --file, not both")
    if file is not None:
        try:
            data = Path(file).read_bytes()
        except OSError as failure:
            raise UserError(f"{file} cannot be read: {failure.strerror}") from failure
    elif value == "-":
        data = sys.stdin.buffer.read()
    else:
        data = (value or "").encode()
    if hexadecimal:
        try:
            data = bytes.fromhex(data.decode())
        except ValueError as broken:
            raise UserError(f"--hex wants hexadecimal digits: {broken}") from broken
    if len(data) > VALUE_BYTES_MAX:
        raise UserError(
            f"the value has {len(data)} bytes and the limit is {VALUE_BYTES_MAX}; nothing was sent: "
            f"store less, or store where it is"
        )
    return data


def _stat(stat: Stat) -> dict[str, int]:
    return stat._asdict()


ValueArgument = Annotated[str | None, typer.Argument(metavar="VALUE", help="the value; - reads standard input")]
FileOption = Annotated[str | None, typer.Option("--file", help="read the value from a file")]
HexOption = Annotated[bool, typer.Option("--hex", help="values are hexadecimal digits")]
PathArgument = Annotated[str, typer.Argument(metavar="PATH")]


@app.command()
def get(
    path: PathArgument,
    cell: CellOption = DEFAULT_CELL,
    hexadecimal: HexOption = False,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Print a znode's value.

    Example: synod get /config/limits
    """
    with reported():
        _demand_path(path)
        value, stat = _with_cell(cell, timeout, lambda c: c.get(path))
        if as_json:
            text = value.hex() if hexadecimal else value.decode(errors="replace")
            print_json({"path": path, "value": text, "stat": _stat(stat)})
        elif hexadecimal:
            typer.echo(value.hex())
        else:
            sys.stdout.buffer.write(value)
            if sys.stdout.isatty() or not value.endswith(b"\n"):
                sys.stdout.buffer.write(b"\n")


@app.command("set")
def set_(
    path: PathArgument,
    value: ValueArgument = None,
    cell: CellOption = DEFAULT_CELL,
    version: Annotated[int, typer.Option(help="only if the znode has this version")] = -1,
    file: FileOption = None,
    hexadecimal: HexOption = False,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Replace a znode's value.

    Example: echo '{"rate": 5}' | synod set /config/limits -
    """
    with reported():
        _demand_path(path)
        data = _value(value, file, hexadecimal=hexadecimal)
        stat = _with_cell(cell, timeout, lambda c: c.set(path, data, version=version))
        if as_json:
            print_json({"path": path, "stat": _stat(stat)})


@app.command()
def create(
    path: PathArgument,
    value: ValueArgument = None,
    cell: CellOption = DEFAULT_CELL,
    ephemeral: Annotated[bool, typer.Option("-e", "--ephemeral", help="it goes when this command ends")] = False,
    sequential: Annotated[bool, typer.Option("-s", "--sequential", help="append a rising number")] = False,
    file: FileOption = None,
    hexadecimal: HexOption = False,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Create a znode and print its path. An ephemeral one lives until Ctrl-C.

    Example: synod create -s /jobs/job- first
    """
    with reported():
        _demand_path(path, sequential=sequential)
        data = _value(value, file, hexadecimal=hexadecimal)

        async def work(c: Cell) -> None:
            created = await c.create(path, data, ephemeral=ephemeral, sequential=sequential)
            if as_json:
                print_json({"path": created})
            else:
                typer.echo(created)
            if ephemeral:
                sys.stdout.flush()
                sys.stderr.write("it lives until Ctrl-C\n")
                await asyncio.Event().wait()

        _with_cell(cell, timeout, work)


@app.command("ls")
def list_(
    path: Annotated[str, typer.Argument(metavar="PATH")] = "/",
    cell: CellOption = DEFAULT_CELL,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """List a znode's children.

    Example: synod ls /services
    """
    with reported():
        _demand_path(path)
        names = _with_cell(cell, timeout, lambda c: c.children(path))
        if as_json:
            print_json({"path": path, "children": names})
        else:
            for name in names:
                typer.echo(name)


@app.command("rm")
def remove(
    path: PathArgument,
    cell: CellOption = DEFAULT_CELL,
    recursive: Annotated[bool, typer.Option("-r", "--recursive", help="everything below it first")] = False,
    version: Annotated[int, typer.Option(help="only if the znode has this version")] = -1,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Delete a znode.

    Example: synod rm -r /jobs
    """
    with reported():
        _demand_path(path)
        _with_cell(cell, timeout, lambda c: c.delete(path, version=version, recursive=recursive))
        if as_json:
            print_json({"path": path})


@app.command()
def status(
    cell: CellOption = DEFAULT_CELL,
    details: Annotated[
        bool, typer.Option("--details", help="also how much disks write at once, and how punctual they are")
    ] = False,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 5.0,
) -> None:
    """Show what each replica of a cell does.

    Example: synod status --cell 127.0.0.1:2181,127.0.0.1:2182,127.0.0.1:2183
    """
    with reported():
        from ._status import show_status

        raise SystemExit(show_status(cell, timeout=timeout, as_json=as_json, details=details))


@app.command("transfer-leader")
def transfer_leader(
    cell: CellOption = DEFAULT_CELL, as_json: JsonOption = False, timeout: TimeoutOption = 10.0
) -> None:
    """Let another replica lead, as before maintenance of the one that does.

    Example: synod transfer-leader --cell 127.0.0.1:2181,127.0.0.1:2182,127.0.0.1:2183
    """
    with reported():
        from ._operator import find_leader, operate

        done = operate(find_leader(cell, timeout).http, "transfer-leader", {}, timeout)
        if as_json:
            print_json(done)
        else:
            print(f"replica {done['leader']} leads; it was replica {done['from']}")


@app.command()
def backup(
    file: Annotated[str, typer.Argument(metavar="FILE", help="is written; it must not exist yet")],
    cell: CellOption = DEFAULT_CELL,
    force: Annotated[bool, typer.Option("--force", help="replace FILE, when the new one is whole")] = False,
    as_json: JsonOption = False,
    timeout: Annotated[float, typer.Option("--timeout", help="seconds to wait for the snapshot")] = 600.0,
) -> None:
    """Write the state of a cell to one file, while it goes on.

    Everything that was acknowledged before is in it, and a quorum of the replicas agrees on its digest.

    Example: synod backup --cell 127.0.0.1:2181,127.0.0.1:2182,127.0.0.1:2183 monday.synod
    """
    with reported():
        from ._backup import make_backup

        make_backup(cell, file, force=force, timeout=timeout, as_json=as_json)


@app.command()
def restore(
    file: Annotated[str, typer.Argument(metavar="FILE", help="written by synod backup")],
    config: Annotated[
        str | None, typer.Argument(metavar="CONFIG", help="of a replica of a new cell: formats its directory")
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="make a new local cell here, for synod up --data-dir DIR")
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, max=7, help="with --data-dir: how many")] = 3,
    client_port: Annotated[int, typer.Option(min=1, max=65_000, help="with --data-dir: of the first replica")] = 2181,
    cell: Annotated[
        str | None, typer.Option("--cell", metavar="HOSTS", help="put the contents back into this running cell")
    ] = None,
    below: Annotated[str, typer.Option(metavar="PATH", help="with --cell: only this znode and what is below")] = "/",
    force: Annotated[bool, typer.Option("--force", help="with --cell: replace what is there")] = False,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Begin a new cell with a backup, or put a backup's contents back into a running cell.

    Example: synod restore monday.synod --data-dir ./restored; then synod up --data-dir ./restored
    """
    with reported():
        if sum(way is not None for way in (config, data_dir, cell)) != 1:
            raise UserError("restore wants one of: the CONFIG of a new replica, --data-dir DIR, or --cell HOSTS")
        from ._restore import begin_replica, restore_online

        if cell is not None:
            restore_online(file, cell, below=below, force=force, timeout=timeout, as_json=as_json)
        elif config is not None:
            from synod.server import load_config

            loaded = load_config(config, settings or ())
            begin_replica(file, loaded)
            sys.stderr.write(
                f"replica {loaded.id} of the cell {loaded.cell_id} begins with {file}; do the same with every replica, "
                f"then start them\n"
            )
        else:
            from ._up import Up

            made = Up(
                replicas=replicas,
                client_port=client_port,
                data_dir=Path(str(data_dir)),
                restart=False,
                settings=settings or [],
                as_json=as_json,
            )
            made.make_from(file)
            sys.stderr.write(
                f"made a cell of {replicas} that begins with {file}; synod up --data-dir {data_dir} runs it\n"
            )


@app.command()
def verify(
    path: Annotated[
        str, typer.Argument(metavar="FILE|DIR", help="a backup, or the data directory of a stopped replica")
    ],
    as_json: JsonOption = False,
) -> None:
    """Check a backup, or a data directory that is not in use; nothing is changed. Exit code 1 if it is damaged.

    Example: synod verify monday.synod
    """
    with reported():
        from ._backup import verify as look

        raise SystemExit(look(path, as_json=as_json))


# -- members -------------------------------------------------------------------------------------------------

member = typer.Typer(
    help="Show and change who belongs to a cell, one replica at a time.\n\nExample: synod member list",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(member, name="member")

IdArgument = Annotated[int, typer.Argument(metavar="ID", help="of the replica, 1 to 255")]
ClientAddressOption = Annotated[
    str | None, typer.Option("--client", metavar="HOST:PORT", help="where it will serve clients; port 2181 by default")
]
HttpAddressOption = Annotated[
    str | None, typer.Option("--http", metavar="HOST:PORT", help="its HTTP; by default the port after its peers'")
]


def _listens(address: str, client: str | None, http: str | None) -> dict[str, str]:
    """Where a replica that is reached by its peers at an address will listen."""
    host, _, port = address.rpartition(":")
    after = str(int(port) + 1) if port.isdecimal() else port
    return {"client": client or f"{host}:2181", "http": http or f"{host}:{after}"}


@member.command("list")
def member_list(cell: CellOption = DEFAULT_CELL, as_json: JsonOption = False, timeout: TimeoutOption = 10.0) -> None:
    """Show the members of the cell, and how far behind the leader each is.

    Example: synod member list --cell 127.0.0.1:2181
    """
    with reported():
        from ._member import show_members
        from ._operator import find_replicas, operate

        replicas = sorted(find_replicas(cell, timeout), key=lambda replica: not replica.leads)
        show_members(operate(replicas[0].http, "member-list", {}, timeout), as_json=as_json)


@member.command("add")
def member_add(
    id_: IdArgument,
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="where its peers will reach it")],
    observer: Annotated[bool, typer.Option("--observer", help="it serves reads and watches, and never votes")] = False,
    client: ClientAddressOption = None,
    http: HttpAddressOption = None,
    cell: CellOption = DEFAULT_CELL,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Add a replica that does not vote yet, and print its config and the two commands that it needs.

    Example: synod member add 4 127.0.0.1:7004 --client 127.0.0.1:2184 --http 127.0.0.1:8004 > replica-4.toml
    """
    with reported():
        from ._member import change, show_config

        role = "observer" if observer else "learner"
        asked = {"id": id_, "address": address, "role": role, **_listens(address, client, http)}
        show_config(change(cell, "member-add", asked, timeout), as_json=as_json)


@member.command("promote")
def member_promote(
    id_: IdArgument, cell: CellOption = DEFAULT_CELL, as_json: JsonOption = False, timeout: TimeoutOption = 10.0
) -> None:
    """Let a replica vote that was added and has caught up.

    Example: synod member promote 4
    """
    with reported():
        from ._member import change, show_members

        show_members(change(cell, "member-promote", {"id": id_}, timeout), as_json=as_json)


@member.command("remove")
def member_remove(
    id_: IdArgument, cell: CellOption = DEFAULT_CELL, as_json: JsonOption = False, timeout: TimeoutOption = 10.0
) -> None:
    """Remove a replica for good; it ends by itself. A leader hands over first.

    Example: synod member remove 2
    """
    with reported():
        from ._member import change, show_members

        show_members(change(cell, "member-remove", {"id": id_}, timeout), as_json=as_json)


@member.command("replace")
def member_replace(
    id_: IdArgument,
    address: Annotated[str | None, typer.Option("--address", metavar="HOST:PORT", help="if its peers' changes")] = None,
    client: Annotated[
        str | None, typer.Option("--client", metavar="HOST:PORT", help="where it serves clients; else to be filled in")
    ] = None,
    http: Annotated[
        str | None, typer.Option("--http", metavar="HOST:PORT", help="its HTTP; else to be filled in")
    ] = None,
    cell: CellOption = DEFAULT_CELL,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 10.0,
) -> None:
    """Re-admit a replica that lost its disk, on an empty one, and print its config; promote it when it caught up.

    Example: synod member replace 2 --client 127.0.0.1:2182 --http 127.0.0.1:8002 > replica-2.toml
    """
    with reported():
        from ._member import change, show_config

        given = {"address": address, "client": client, "http": http}
        asked = {"id": id_, **{key: value for key, value in given.items() if value is not None}}
        show_config(change(cell, "member-replace", asked, timeout), as_json=as_json)


# -- work under a lock ---------------------------------------------------------------------------------------


@app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False})
def lock(
    path: PathArgument,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...")],
    cell: CellOption = DEFAULT_CELL,
    timeout: Annotated[float | None, typer.Option(help="seconds to wait for the lock; without end by default")] = None,
    try_: Annotated[bool, typer.Option("--try", help="do not wait for the lock")] = False,
    code: Annotated[int, typer.Option("-E", min=0, max=255, help="exit code when the lock is not got or lost")] = 3,
    session_timeout: Annotated[float, typer.Option(help="seconds until a silent holder loses the lock")] = 10.0,
) -> None:
    """Run a command while holding a lock; its token is in SYNOD_FENCING_TOKEN.

    The command is stopped (TERM, then KILL) before the lock could have passed to somebody else.

    Example: synod lock --timeout 30 /locks/backup -- ./backup.sh
    """
    with reported():
        from ._locked import run_locked

        raise SystemExit(
            asyncio.run(
                run_locked(
                    cell,
                    path,
                    command[1:] if command[0] == "--" else command,
                    timeout=timeout,
                    blocking=not try_,
                    failure_code=code,
                    session_timeout_ms=round(session_timeout * 1000),
                )
            )
        )


# -- evidence ------------------------------------------------------------------------------------------------


@app.command()
def sim(
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="how many seeds to run")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="processes")] = 1,
    start: Annotated[int, typer.Option("--from", help="the first seed")] = 0,
    seed: Annotated[int | None, typer.Option("--seed", help="run this seed and print its trace hash")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run whole cells in a simulated world of faults, one per seed.

    Example: synod sim --seeds 200 --jobs 2
    """
    with reported():
        from synod.sim import command

        raise SystemExit(command(seeds=seeds, jobs=jobs, start=start, seed=seed, json=as_json))


@app.command()
def replay(
    file: Annotated[str, typer.Argument(metavar="FILE", help="recording-*.synodrec in a replica's data directory")],
    as_json: JsonOption = False,
) -> None:
    """Do again what a recorded replica did, and compare every output: `[recorder] bytes` in its config records it.

    Example: synod replay synod-data/replica-1/recording-00000002.synodrec
    """
    with reported():
        from synod.server import replay_command

        raise SystemExit(replay_command(file, json_output=as_json))


@app.command()
def demo(
    requests: Annotated[str | None, typer.Option("--requests", metavar="FILE|-", help="JSON lines")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="keep serving after the stream")] = False,
    seed: Annotated[int, typer.Option("--seed", help="of the generated stream")] = 0,
    broken: Annotated[
        Literal["guard", "duplicates"] | None,
        typer.Option("--without", help="switch a safeguard off, to see the audit fail"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the main job: a cell, three instances of a service, real requests, kills, and an audit.

    Example: synod demo
    """
    with reported():
        from synod.demo import run

        raise SystemExit(run(requests=requests, keep=keep, seed=seed, json=as_json, broken=broken))


@app.command()
def torment(
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="how long things go wrong")] = 60.0,
    replicas: Annotated[int, typer.Option("--replicas", min=3, max=7, help="how many replicas")] = 3,
    seed: Annotated[int | None, typer.Option("--seed", help="of the faults and of the clients")] = None,
    faults: Annotated[str | None, typer.Option("--faults", metavar="NAME,...", help="only these")] = None,
    network: Annotated[
        Literal["proxy", "namespaces"],
        typer.Option("--network", help="what lies between the replicas; namespaces lose packets, and need root"),
    ] = "proxy",
    cell: Annotated[
        str | None, typer.Option("--cell", metavar="HOSTS", help="load and judge this cell, and do it no harm")
    ] = None,
    history: Annotated[str | None, typer.Option("--history", metavar="FILE", help="keep what clients saw")] = None,
    check: Annotated[str | None, typer.Option("--check", metavar="FILE", help="judge a kept history")] = None,
    as_json: JsonOption = False,
) -> None:
    """Kill, stop, cut off and starve real replicas under load, and hold them to every promise.

    Example: synod torment --seconds 60 --replicas 5 --faults kill,pause,partition
    """
    with reported():
        from synod.torment import Options, command

        options = Options(seconds, replicas, seed, faults, network, cell, history, check, as_json)
        raise SystemExit(command(options))


def main() -> None:
    """The entry point; a usage error is one sentence, too, and ends with exit code 2."""
    try:
        code = app(standalone_mode=False)
    except UsageError as mistake:
        said = mistake.format_message().strip()
        if not said or "\n" in said or mistake.ctx is None:  # no argument at all: the help is the answer
            mistake.show()
        else:
            complain(f"{said.rstrip('.?')}; nothing was done: `{mistake.ctx.command_path} -h` shows how it is used")
        raise SystemExit(USER) from None
    except typer.Abort:
        raise SystemExit(INTERRUPTED) from None
    raise SystemExit(code)
