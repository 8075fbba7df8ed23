"""`workers=slurm`: the workers of a job are one job array of `sbatch`, on any site, as it is configured.

A minute before its time limit, and before a preemption that the site announces, a worker gets USR1. It saves
what it is running, ends with 75, and its task goes back into the queue under its old id; so does that of one
that was killed, a few times. A task whose node dies is queued again by Slurm itself.
"""

import os
import re
import shlex
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator

from src.utils.config.worker_settings import RemoteWorkers, SlurmWorkers
from src.utils.errors import UserError
from src.utils.paths import display_path
from src.utils.workers.job import FORGIVEN, Submitted, WorkerJob, masked

SCRIPT, ENVIRONMENT, STOPPED = "job.sh", "environment", "stopped"  # files in the folder of a job
PREFIX = re.compile(r"^\w+: (error|fatal): ")  # of its messages
GONE = "Invalid job id"  # what squeue and scancel say of a job that has ended some time ago
BODY = """\
job={job}
. "$job/{environment}" || exit 2
cd {code} || exit 1
[ -e "$job/{stopped}" ] && exit

# USR1: the time limit or a preemption is near; TERM: a preemption without warning, or somebody cancels. The
# worker saves what it is running and ends with 75, or with 143 if it had not begun to listen. Then it is
# queued again, unless the job was cancelled, by lab stop or scancel. 2 is a mistake in the settings.
trap 'asked=1; [ -z "$worker" ] || kill -TERM "$worker" 2> /dev/null' USR1 TERM
echo "$(date '+%F %T') $(hostname): begins${{SLURM_RESTART_COUNT:+, restart $SLURM_RESTART_COUNT}}"
{command} &
worker=$!
wait "$worker"; code=$?
while kill -0 "$worker" 2> /dev/null; do wait "$worker"; code=$?; done
echo "$(date '+%F %T') $(hostname): ends with $code"
if [ "$code" -gt 128 ] && [ -z "$asked" ]; then  # killed, as for lack of memory
    killed=$job/killed.$SLURM_ARRAY_TASK_ID
    echo "$code" >> "$killed"
    [ "$(wc -l < "$killed")" -gt {forgiven} ] || asked=1
fi
if [ -n "$asked" ] && [ "$code" != 0 ] && [ "$code" != 2 ] && [ ! -e "$job/{stopped}" ]; then
    task=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID  # SLURM_JOB_ID of one task means the whole array
    scontrol show job "$task" | grep -q JobState=RUNNING && scontrol requeue "$task"
fi
exit "$code"
"""


class Slurm:
    """The engine Slurm, by its commands `sbatch`, `squeue` and `scancel`."""

    uses_image = False

    def check(self, settings: RemoteWorkers) -> None:
        """Check that this is a machine from which jobs are submitted.

        Raises:
            UserError: it isn't.
        """
        if shutil.which("sbatch") is None:
            raise UserError(
                "workers=slurm needs sbatch, which is not on the PATH: type it on a login node of the "
                "cluster; workers.dry_run=true prints the job that it would get"
            )

    def render(self, job: WorkerJob) -> str:
        """The script, and the environment without passwords."""
        values = "".join(
            f"\n#     {name}={value}" for name, value in masked(job.environment).items()
        )
        return f"{_script(job)}\n# $job/{ENVIRONMENT}, which nobody else can read:{values}"

    def submit(self, job: WorkerJob) -> Submitted:
        """Write the script and the environment, and call sbatch.

        Raises:
            UserError: Slurm refuses the job.
        """
        environment = "".join(
            f"export {name}={shlex.quote(value)}\n" for name, value in job.environment.items()
        )
        descriptor = os.open(job.logs / ENVIRONMENT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(environment)
        script = job.logs / SCRIPT
        script.write_text(_script(job))
        # 123, or 123;cluster where several clusters are one federation
        id, _, cluster = _call("sbatch", "--parsable", str(script)).strip().partition(";")
        details = {"cluster": cluster} if cluster else {}
        return Submitted(job.name, "slurm", id, job.settings.count, time.time(), details=details)

    def states(self, job: Submitted) -> dict[str, int]:
        """How many tasks of the array are pending, running, completing …

        Raises:
            UserError: Slurm can't be asked.
        """
        listed = _call("squeue", *_cluster(job), "-h", "-r", "-o", "%T", "-j", job.id)
        return dict(Counter(listed.lower().split()))

    def follow(self, job: Submitted) -> str:
        """The command that shows what the workers print."""
        return f"tail -F {shlex.quote(str(display_path(job.logs)))}/*.out"

    def cancel(self, job: Submitted) -> None:
        """Cancel the tasks that wait, and let those that run save and end.

        Raises:
            UserError: Slurm can't be asked.
        """
        (job.logs / STOPPED).touch()  # a task that is just being queued again ends when it starts
        _call("scancel", *_cluster(job), "--state=PENDING", job.id)
        _call("scancel", *_cluster(job), "--signal=TERM", "--batch", job.id)


def _script(job: WorkerJob) -> str:
    options = "".join(f"#SBATCH {option}\n" for option in _options(job))
    body = BODY.format(
        job=shlex.quote(str(job.logs)),
        code=shlex.quote(str(job.folder)),
        command=shlex.join(job.command),
        environment=ENVIRONMENT,
        stopped=STOPPED,
        forgiven=FORGIVEN,
    )
    return f"#!/bin/bash\n{options}\n{body}"


def _options(job: WorkerJob) -> Iterator[str]:
    settings = job.settings
    assert isinstance(settings, SlurmWorkers)
    yield f"--job-name={shlex.quote(job.logs.name)}"
    yield f"--array=0-{settings.count - 1}"
    yield "--nodes=1 --ntasks=1"
    values = {
        "partition": settings.partition,
        "cpus-per-task": settings.cpus,
        "gres": f"gpu:{settings.gpus}" if settings.gpus else None,
        "mem": settings.memory,
        "time": settings.time,
    }
    yield from (f"--{name}={shlex.quote(str(value))}" for name, value in values.items() if value)
    yield "--signal=B:USR1@60"
    yield "--requeue --open-mode=append"
    yield f"--output={shlex.quote(str(job.logs / '%a.out'))}"
    yield from map(shlex.quote, settings.extra)


def _cluster(job: Submitted) -> list[str]:
    return [f"--clusters={job.details['cluster']}"] if "cluster" in job.details else []


def _call(*command: str) -> str:
    """What a command of Slurm prints. A job that it does not know any more has ended."""
    # A job from which this one is submitted is not to be mistaken for it
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    configuration = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    try:
        done = subprocess.run(
            command, env=own | configuration, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise UserError(f"{command[0]} can't be called: {error.strerror}") from None
    if done.returncode != 0 and GONE not in done.stderr:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"{command[0]} failed: {PREFIX.sub('', lines[-1])}")
    return done.stdout
