"""Batches on several machines while parts of these are killed at random: nothing is lost, doubled, or done again.

What was done is known from outside: `JournalWatch` notes when it saw the record of each line first, and the engine's
log says when each request came.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from bench.exactness import find_violations
from bench.findings import Findings, Setting, tell
from bench.null.process import NullEngine
from bench.postgres.server import PostgresServer
from bench.scale.journal_watch import JournalWatch
from bench.scale.ray_nodes import find_ray
from bench.scale.seaweed import ObjectServer
from bench.scale.storm_clients import Job, PatientClient, run_job
from bench.scale.storm_parts import Supervisor, list_parts
from bench.scale.storm_ray import RAY_WORKERS, list_ray_parts, make_nodes, write_ray_settings
from bench.server_process import BackfillServer

__all__ = ["judge_jobs", "measure_storm"]

_LINES = 20_000
_KILLS = 20
_SERVERS = {"api": 2, "work": 2, "scale": 2}
_TITLES = {"api": "API process", "work": "worker", "scale": "scaler"}
_WORKERS = _SERVERS["work"] + RAY_WORKERS
_CLIENTS = 6
_PLACES = 16
_LEASE_S = 3
# So long the lines take if nothing is killed, for each kill.
_SECONDS_PER_KILL = 5.0
_END_TIMEOUT_S = 600.0
_POLL_S = 0.05
# The last kill comes while there is something to do.
_STRUCK_SHARE = 0.95


@dataclass(frozen=True)
class _Plan:
    lines: int
    kills: int
    large: int
    small: int

    @classmethod
    def make(cls, lines: int) -> "_Plan":
        """Three of five lines are in four large batches, the others in forty small ones."""
        kills = min(_KILLS, max(2, lines // 150))
        return cls(lines, kills, large=lines * 3 // 20, small=lines // 100)

    @property
    def jobs(self) -> list[Job]:
        sizes = [*[self.large, *[self.small] * 10] * 4]
        firsts = [sum(sizes[:number]) for number in range(len(sizes))]
        return [
            Job(first, lines, follows=number % 4 == 0)
            for number, (first, lines) in enumerate(zip(firsts, sizes, strict=True))
        ]

    @property
    def delay_ms(self) -> float:
        return 1000 * _WORKERS * _PLACES * self.kills * _SECONDS_PER_KILL / self.lines

    @property
    def settings(self) -> dict[str, str]:
        return {
            "server__lease_s": str(_LEASE_S),
            "dispatch__lines_per_turn": str(max(10, self.large // 6)),
        }


def measure_storm(setting: Setting, findings: Findings) -> None:
    """The seed says what is killed and after how many answers; when that is, the machine says."""
    if find_ray() is None:
        tell("storm: left out, since Ray is not installed (pip install -r requirements/dev.txt)")
        return
    plan = _Plan.make(setting.scale(_LINES))
    for number in range(setting.count_repeats(1)):
        seed = setting.seed + number
        tell(f"storm: {plan.lines} lines, {plan.kills} kills, seed {seed}")
        started_s = time.monotonic()
        jobs = _run(setting, findings, plan, seed)
        judge_jobs(findings, jobs)
        findings.facts["storm_seconds"] = round(time.monotonic() - started_s, 1)
        findings.facts["storm_seed"] = seed


def _run(setting: Setting, findings: Findings, plan: _Plan, seed: int) -> list[Job]:
    dice = random.Random(seed)
    jobs = plan.jobs
    with ExitStack() as stack:
        rows = stack.enter_context(PostgresServer(parent=setting.folder.parent))
        objects = stack.enter_context(ObjectServer(setting.make_folder()))
        engines = [stack.enter_context(NullEngine(delay_ms=plan.delay_ms)) for _ in range(2)]
        store = objects.settings()
        settings = {name.replace(".", "__"): value for name, value in store.items()} | plan.settings
        settings["store__metadata"] = rows.make_database("storm")
        folder = setting.make_folder()
        nodes = stack.enter_context(make_nodes(folder, settings))
        config_file = folder / "backfill.toml"
        write_ray_settings(config_file, nodes.address, *((engine.url, _PLACES) for engine in engines))
        stack.enter_context(nodes.letting_in())
        servers = _start_servers(stack, folder, settings | {"config": str(config_file)})
        watch = stack.enter_context(JournalWatch(folder / "watch", store))
        parts = list_parts({_TITLES[role]: those for role, those in servers.items()}, rows, objects)
        supervisor = Supervisor([*parts, *list_ray_parts(nodes, dice)], dice)
        moments = sorted(dice.uniform(0, _STRUCK_SHARE * plan.lines) for _ in range(plan.kills))
        retries = _live_through(servers["api"], jobs, watch, engines, supervisor, moments)
        supervisor.close()
        redone = watch.find_redone(event for engine in engines for event in engine.log())
        received = Counter(marker for engine in engines for marker in engine.markers())
        _tell_of_ray(findings, engines[1].stats()["answered"], engines[0].stats()["answered"])
    findings.add(
        storm_redone_finished=len(redone),
        storm_redone_in_flight=sum(received.values()) - len(received),
        storm_retries=retries,
    )
    findings.facts["storm_watched"] = len(watch.seen_ns)
    findings.facts[f"storm_killed_{seed}"] = dict(sorted(supervisor.killed.items()))
    findings.facts[f"storm_ended_by_themselves_{seed}"] = dict(supervisor.ended)
    findings.violations += [f"storm: {name} ended by itself" for name in supervisor.broken]
    if redone:
        findings.violations.append(f"storm, seed {seed}: {len(redone)} finished lines were sent again: {min(redone)}")
    return jobs


def _start_servers(stack: ExitStack, folder: Path, settings: dict[str, str]) -> dict[str, list[BackfillServer]]:
    return {
        role: [
            stack.enter_context(BackfillServer(folder / f"{role}-{number}", {}, settings | {"server__role": role}))
            for number in range(count)
        ]
        for role, count in _SERVERS.items()
    }


def _tell_of_ray(findings: Findings, far: int, near: int) -> None:
    """A storm in which only one kind of workers was at work shows nothing of the other."""
    findings.add(storm_ray_share=far / max(1, far + near))
    if not (far and near):
        findings.violations.append(f"storm: {far} lines were answered on Ray, {near} elsewhere")


def _live_through(
    apis: Sequence[BackfillServer],
    jobs: list[Job],
    watch: JournalWatch,
    engines: Sequence[NullEngine],
    supervisor: Supervisor,
    moments: list[float],
) -> int:
    """Until all clients are done, with kills as soon as there are so many answers; how often clients tried again."""
    left = list(reversed(jobs))
    deadline_s = time.monotonic() + _END_TIMEOUT_S
    clients = []

    def work() -> None:
        with closing(PatientClient(lambda: [api.url for api in apis], deadline_s)) as client:
            clients.append(client)
            while left:
                run_job(client, left.pop(), lambda batch_id, job: watch.add(batch_id, job.first, job.lines))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if moments and sum(engine.stats()["answered"] for engine in engines) >= moments[0]:
            supervisor.strike()
            del moments[0]
        supervisor.look()
        time.sleep(_POLL_S)
    return sum(client.retries for client in clients)


def judge_jobs(findings: Findings, jobs: list[Job]) -> None:
    """Count what is lost and doubled, and say what else is wrong."""
    lost = doubled = 0
    for job in jobs:
        expected, results = job.custom_ids, Counter(job.output + job.errors)
        found = [results, *([Counter(job.followed)] if job.follows else [])]
        # The null engine answers every request: a line in the error file is a loss that it never caused.
        lost += len(job.errors) + max(len([one for one in expected if not each[one]]) for each in found)
        doubled += max(sum(times - 1 for times in each.values()) for each in found)
        violations = find_violations(expected, job.output, job.errors)
        if job.follows:
            violations += [f"read before the end: {one}" for one in find_violations(expected, sorted(job.followed), [])]
        if job.errors:
            violations.append(f"{len(job.errors)} lines are in the error file")
        if job.failure:
            violations.append(job.failure)
        findings.violations += [f"storm: {one}" for one in violations]
    findings.add(storm_lost=lost, storm_doubled=doubled)
