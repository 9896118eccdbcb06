"""A mesh of one machine to measure: a control plane, sidecars of one worker, and what they call."""

import subprocess
import sys
import tempfile
from pathlib import Path


class Stand:
    """Processes below a directory of their own; all of them end with it. `net` is what their addresses begin with."""

    def __init__(self, binary, net):
        self.binary, self.net, self.started = binary, net, []

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory()
        self.home = self.directory.name
        return self

    def __exit__(self, *_):
        for process in reversed(self.started):
            process.terminate()
            process.wait()
        self.directory.cleanup()

    def start(self, name, *argv):
        """Its process id."""
        log = open(f"{self.home}/{name}.log", "w")
        self.started.append(subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT))
        return self.started[-1].pid

    def run(self, *argv, text=None):
        """What the command says; nothing goes on after one that fails."""
        argv = [self.binary, "--home", f"{self.home}/mesh", *argv]
        done = subprocess.run(argv, input=text, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{argv[3]}: {done.stderr}")
        return done.stdout.strip()

    def mesh(self, nginx):
        """The application, by its configuration, and a control plane that is ready."""
        conf = Path(self.home, "nginx.conf")
        conf.write_text(nginx % {"dir": self.home, "at": f"{self.net}2:9080"})
        self.start("nginx", "nginx", "-c", str(conf))
        self.run("install", "-q")
        self.start("control-plane", self.binary, "--home", f"{self.home}/mesh", "control-plane", "--listen", f"{self.net}1")
        self.run("check", "--wait", "30s")

    def sidecar(self, name, host, *flags):
        """The process id of a sidecar before the application."""
        token = self.run("token", "create", "-q", "--service-account", name)
        return self.start(
            name, self.binary, "--home", f"{self.home}/{name}", "proxy", "--service", name, "--service-account", name,
            "--version", "v1", "--app", f"9080={self.net}2:9080", "--join", token, "--control-plane", f"{self.net}1:15012",
            "--address", host, "--workers", "1", "--admin-port", "0", *flags,
        )


def service(name):
    """Its manifest."""
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 9080}}]}}\n"
    )
