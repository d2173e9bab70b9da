"""What Backfill itself costs, on an engine that costs nothing: batches, uploads and recoveries."""

from bench.child import run_child
from bench.findings import BATCH_TIMEOUT_S, CHILD_TIMEOUT_S, Findings, Setting, tell
from bench.null.process import NullEngine
from bench.recovery import measure_recovery
from bench.server_process import BackfillServer, name_null_engine
from bench.whole_path import measure_whole_path, upload

__all__ = ["measure_batches", "measure_recoveries", "measure_uploads"]

_REPEATS = 3
# Uploads take under a second each, so more of them fit into the same time.
_UPLOADS_PER_REPEAT = 2


def measure_batches(setting: Setting, findings: Findings) -> None:
    """The bare loops and the whole path take turns: the machine drifts, and so it drifts for all of them."""
    repeats = setting.count_repeats(_REPEATS)
    for number in range(repeats):
        tell(f"requests, run {number + 1} of {repeats}")
        sizes = ("--lines", setting.lines, "--concurrency", setting.concurrency)
        for client, name in (("engine", "bare_loop"), ("plain", "plain_aiohttp")):
            with NullEngine() as engine:
                bare = run_child("bare_loop", engine.url, "--client", client, *sizes, timeout_s=CHILD_TIMEOUT_S)
            findings.add(**{f"{name}_rps": bare["rps"], f"{name}_cpu_s_per_1000": bare["cpu_s_per_1000"]})
            tell(f"  {name}: {bare['rps']:.0f} requests/s, {bare['cpu_s_per_1000']:.3f} CPU s per 1,000")
        path = measure_whole_path(
            setting.make_folder(), setting.input_path, setting.lines, setting.concurrency, BATCH_TIMEOUT_S
        )
        findings.add(
            null_engine_rps=path.rps,
            cpu_s_per_1000=path.cpu_s_per_1000,
            peak_over_idle_mb=path.peak_over_idle_mb,
            idle_mb=path.idle_mb,
            create_to_first_request_s=path.create_to_first_request_s,
        )
        findings.facts["peak_method"] = "VmHWM, reset before" if path.peak_is_reset else "VmHWM since the start"
        findings.violations += path.violations
        tell(f"  whole path: {path.rps:.0f} requests/s, {path.cpu_s_per_1000:.3f} CPU s per 1,000")
        tell(f"  first request after {path.create_to_first_request_s:.3f} s")
        tell(f"  {path.peak_over_idle_mb:.0f} MB above the {path.idle_mb:.0f} MB at rest")


def measure_uploads(setting: Setting, findings: Findings) -> None:
    """Nothing is sent to an engine: its address is one where nobody listens."""
    engines = name_null_engine("http://127.0.0.1:9", setting.concurrency)
    with BackfillServer(setting.make_folder() / "data", engines) as server:
        runs = setting.count_repeats(_REPEATS) * _UPLOADS_PER_REPEAT
        for number in range(runs):
            tell(f"uploads, run {number + 1} of {runs}")
            floors = run_child("file_floors", setting.input_path, timeout_s=CHILD_TIMEOUT_S)
            _, multipart_s = upload(server, "multipart", setting.input_path)
            _, put_s = upload(server, "put", setting.input_path)
            findings.add(
                upload_validate_s=multipart_s,
                decode_floor_s=floors["decode_s"],
                put_validate_s=put_s,
                durable_copy_floor_s=floors["durable_copy_s"],
            )
            tell(f"  multipart {multipart_s:.3f} s, put {put_s:.3f} s")
            tell(f"  floors: decode {floors['decode_s']:.3f} s, durable copy {floors['durable_copy_s']:.3f} s")


def measure_recoveries(setting: Setting, findings: Findings) -> None:
    """A kill and a restart each time."""
    in_flight, finished = [], []
    repeats = setting.count_repeats(_REPEATS)
    for number in range(repeats):
        tell(f"recovery, run {number + 1} of {repeats}")
        recovery = measure_recovery(
            setting.make_folder(), setting.input_path, setting.lines, setting.concurrency, BATCH_TIMEOUT_S
        )
        findings.add(recover_s=recovery.recover_s, recover_after_ready_s=recovery.after_ready_s)
        in_flight.append(recovery.redone.in_flight)
        finished.append(recovery.redone.finished)
        findings.violations += recovery.violations
        tell(f"  first request {recovery.recover_s:.3f} s after the start, {recovery.after_ready_s:.3f} s after ready")
        tell(f"  {recovery.finished} lines were finished, {recovery.redone.finished} of them redone")
        tell(f"  {recovery.redone.in_flight} lines were received twice, with {setting.concurrency} in flight at most")
    # Of promises the worst run counts, not the median.
    findings.facts |= {"redone_finished": max(finished), "redone_in_flight": max(in_flight)}
