"""`rlvr report FOLDER -o report.html` and `rlvr report --live RUN`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rlvr.common.errors import ConfigError


def report_main(words: Sequence[str]) -> int:
    """Writes the page, or serves it until Ctrl-C; the exit code. Raises: ConfigError."""
    parser = argparse.ArgumentParser(
        prog="rlvr report", description="One HTML page about a run, a comparison or an analysis."
    )
    parser.add_argument("folder", type=Path, help="folder of a run, a comparison or an analysis")
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="where the page goes (report.html)"
    )
    parser.add_argument(
        "--analysis",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders that rlvr analyze wrote, to show as well",
    )
    parser.add_argument("--live", action="store_true", help="serve it on 127.0.0.1 and refresh it")
    parser.add_argument("--port", type=int, metavar="N", help="of --live (a free one)")
    args = parser.parse_args(words)
    if args.live:
        if args.out:
            raise ConfigError("--live serves the page and writes no file; leave --out out")
        # 0: the system picks a free port
        return _serve(args.folder, args.port or 0, args.analysis)
    if args.port is not None:
        raise ConfigError("--port: belongs to --live")
    return _write(args.folder, args.out or Path("report.html"), args.analysis)


def _write(folder: Path, out: Path, analysis_folders: list[Path]) -> int:
    from rlvr.report.folder import read_source
    from rlvr.report.page import write_page

    page = write_page(read_source(folder, analysis_folders))
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror}; take another path") from None
    print(f"{out} ({out.stat().st_size / 2**20:.1f} MiB)")
    return 0


def _serve(folder: Path, port: int, analysis_folders: list[Path]) -> int:
    from rlvr.report.live import HOST, make_server

    try:
        server = make_server(folder, port, analysis_folders)
    # OverflowError: what bind raises for a port above 65535
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--port {port}: {error}; take another, or leave it out") from None
    # flushed: into a pipe it would stay in the buffer for as long as the server runs
    print(f"http://{HOST}:{server.server_address[1]}/ (Ctrl-C ends it)", flush=True)
    with server:
        server.serve_forever()
    return 0
