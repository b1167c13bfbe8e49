"""Packs built binaries for those who install them. `build` and the release workflow run it.

    pack.py versions                           print the version; exit with 1 if the files disagree
    pack.py archive TARGET BINARY EXTRAS DIST  a tar.gz with the binary and its manual pages
    pack.py npm TARGET BINARY DIST             the npm package that carries the binary
    pack.py npm-launcher DIST                  the npm package `outboxd`, which finds that one
    pack.py wheel TARGET BINARY DIST           the wheel that carries the binary
    pack.py image DIST ARCH=BINARY...          an OCI image layout, one image per architecture
    pack.py formula DIST                       the Homebrew formula of the archives in DIST

The same input makes the same bytes: every file has the time of SOURCE_DATE_EPOCH, or 0.
"""

import base64
import gzip
import hashlib
import io
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SUMMARY = "A transactional-outbox relay: MongoDB to NATS JetStream, with nothing lost in between"
HOME = "https://github.com/outboxd/outboxd"
TIME = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
# By Rust's target: the names of npm's package, its os and cpu, and the wheel's platforms. A static
# binary runs with glibc and with musl.
TARGETS = {
    "x86_64-unknown-linux-musl": ("linux-x64", "linux", "x64", "manylinux_2_17_x86_64.manylinux2014_x86_64.musllinux_1_1_x86_64"),
    "aarch64-unknown-linux-musl": ("linux-arm64", "linux", "arm64", "manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64"),
    "aarch64-apple-darwin": ("darwin-arm64", "darwin", "arm64", "macosx_11_0_arm64"),
}


def read(path):
    return (ROOT / path).read_text()


def version():
    return re.search(r'^version = "(.+)"$', read("Cargo.toml"), re.M)[1]


def versions():
    """Every file that states the version of the release states this one."""
    ours = version()
    chart = read("deploy/kubernetes/chart/Chart.yaml")
    stated = {
        "clients/node/package.json": json.loads(read("clients/node/package.json"))["version"],
        "clients/python/pyproject.toml": re.search(r'^version = "(.+)"$', read("clients/python/pyproject.toml"), re.M)[1],
        "clients/java/pom.xml": re.search(r"<version>(.+)</version>", read("clients/java/pom.xml"))[1],
        "Chart.yaml, version": re.search(r"^version: (.+)$", chart, re.M)[1],
        "Chart.yaml, appVersion": re.search(r"^appVersion: (.+)$", chart, re.M)[1],
    }
    wrong = [f"{file} states version {found}, and Cargo.toml {ours}" for file, found in stated.items() if found != ours]
    print("\n".join(wrong) or ours)
    return len(wrong)


def member(name, mode, size=0, kind=tarfile.REGTYPE, owner=0):
    info = tarfile.TarInfo(name)
    info.mode, info.size, info.type, info.mtime = mode, size, kind, TIME
    info.uid = info.gid = owner
    return info


def tar(entries):
    """A tar.gz of (name, mode, content, owner); content None is a directory."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as out:
        for name, mode, content, owner in entries:
            if content is None:
                out.addfile(member(name, mode, kind=tarfile.DIRTYPE, owner=owner))
            else:
                out.addfile(member(name, mode, len(content), owner=owner), io.BytesIO(content))
    return raw.getvalue(), gzip.compress(raw.getvalue(), mtime=TIME)


def archive(target, binary, extras, dist):
    """The binary, and what `build` generated in the folder EXTRAS."""
    top = f"outboxd-{version()}-{target}"
    entries = [(f"{top}/outboxd", 0o755, pathlib.Path(binary).read_bytes(), 0)]
    for path in ("LICENSE", "README.md", "CHANGELOG.md", "config/outboxd.toml", "deploy/systemd/outboxd.service"):
        entries.append((f"{top}/{pathlib.Path(path).name}", 0o644, (ROOT / path).read_bytes(), 0))
    for file in sorted(path for path in pathlib.Path(extras).rglob("*") if path.is_file()):
        entries.append((f"{top}/{file.relative_to(extras)}", 0o644, file.read_bytes(), 0))
    (pathlib.Path(dist) / f"{top}.tar.gz").write_bytes(tar(entries)[1])


def npm_pack(dist, manifest, files):
    """Runs `npm pack` in a folder of these files: name to content and mode."""
    common = {"version": version(), "license": "Apache-2.0", "homepage": HOME, "repository": {"type": "git", "url": f"git+{HOME}.git"}}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "package.json").write_text(json.dumps({**manifest, **common}, indent=2) + "\n")
        shutil.copy(ROOT / "LICENSE", folder)
        for name, (content, mode) in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
            (folder / name).chmod(mode)
        subprocess.run(["npm", "pack", "--silent", "--pack-destination", os.path.abspath(dist)], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def npm(target, binary, dist):
    name, system, cpu, _ = TARGETS[target]
    about = f"# outboxd-{name}\n\nThe binary of [outboxd]({HOME}) for this platform. Install the package `outboxd`, which depends on it.\n"
    manifest = {"name": f"outboxd-{name}", "description": f"{SUMMARY} ({name})", "os": [system], "cpu": [cpu], "files": ["bin"]}
    npm_pack(dist, manifest, {"bin/outboxd": (pathlib.Path(binary).read_bytes(), 0o755), "README.md": (about.encode(), 0o644)})


def npm_launcher(dist):
    here = pathlib.Path(__file__).parent / "npm"
    manifest = {
        "name": "outboxd",
        "description": SUMMARY,
        "keywords": ["outbox", "mongodb", "nats", "jetstream", "relay"],
        "engines": {"node": ">=18"},
        "bin": {"outboxd": "outboxd.js"},
        "files": ["outboxd.js"],
        "optionalDependencies": {f"outboxd-{name}": version() for name, *_ in TARGETS.values()},
    }
    npm_pack(dist, manifest, {name: ((here / name).read_bytes(), mode) for name, mode in (("outboxd.js", 0o755), ("README.md", 0o644))})


def wheel(target, binary, dist):
    ours, platforms = version(), TARGETS[target][3]
    info, tag = f"outboxd-{ours}.dist-info", f"py3-none-{platforms}"
    tags = "".join(f"Tag: py3-none-{platform}\n" for platform in platforms.split("."))
    about = (pathlib.Path(__file__).parent / "pypi.md").read_text()
    files = {
        f"outboxd-{ours}.data/scripts/outboxd": pathlib.Path(binary).read_bytes(),
        f"{info}/METADATA": (
            f"Metadata-Version: 2.4\nName: outboxd\nVersion: {ours}\nSummary: {SUMMARY}\nLicense-Expression: Apache-2.0\n"
            f"License-File: LICENSE\nProject-URL: Source, {HOME}\nRequires-Python: >=3.8\nDescription-Content-Type: text/markdown\n\n{about}"
        ).encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: outboxd\nRoot-Is-Purelib: false\n{tags}".encode(),
        f"{info}/licenses/LICENSE": (ROOT / "LICENSE").read_bytes(),
    }

    def digest(content):
        return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()

    record = "".join(f"{name},sha256={digest(content)},{len(content)}\n" for name, content in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    with zipfile.ZipFile(pathlib.Path(dist) / f"outboxd-{ours}-{tag}.whl", "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)  # its time is the earliest that a zip can state
            entry.external_attr = (0o100755 if "/scripts/" in name else 0o100644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(entry, content)


def last_stage():
    """The configuration that the Dockerfile's last stage gives its image."""
    text = read("deploy/docker/Dockerfile").replace("\\\n", " ")
    last = text[text.rindex("\nFROM ") :]

    def value(word):
        return re.search(rf"^{word} (.+)$", last, re.M)[1]

    seconds = 1_000_000_000
    check = re.search(r"^HEALTHCHECK (.+) CMD (\[.+\])$", last, re.M)
    times = dict(re.findall(r"--([\w-]+)=(\d+)", check[1]))

    return {
        "User": value("USER"),
        "Env": shlex.split(value("ENV")),
        "WorkingDir": value("WORKDIR"),
        "Entrypoint": json.loads(value("ENTRYPOINT")),
        "Cmd": json.loads(value("CMD")),
        "Healthcheck": {
            "Test": ["CMD", *json.loads(check[2])],
            "Interval": int(times["interval"]) * seconds,
            "Timeout": int(times["timeout"]) * seconds,
            "StartPeriod": int(times["start-period"]) * seconds,
            "Retries": int(times["retries"]),
        },
        "Labels": {
            "org.opencontainers.image.title": "outboxd",
            "org.opencontainers.image.description": SUMMARY,
            "org.opencontainers.image.licenses": "Apache-2.0",
            "org.opencontainers.image.source": HOME,
            "org.opencontainers.image.version": version(),
        },
    }


def image(dist, *binaries):
    """What the Dockerfile's last stage holds: the binary, the CA certificates, a writable folder."""
    blobs = pathlib.Path(dist) / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(content, kind):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    certificates = pathlib.Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")).read_bytes()
    config, manifests = last_stage(), []
    owner, state = int(config["User"].split(":")[0]), config["WorkingDir"].strip("/")
    for architecture, binary in (part.split("=", 1) for part in binaries):
        folders = ["etc", "etc/ssl", "etc/ssl/certs", "usr", "usr/local", "usr/local/bin", "var", "var/lib"]
        entries = [(folder, 0o755, None, 0) for folder in folders]
        entries.append((state, 0o755, None, owner))
        entries.append(("etc/ssl/certs/ca-certificates.crt", 0o644, certificates, 0))
        entries.append(("usr/local/bin/outboxd", 0o755, pathlib.Path(binary).read_bytes(), 0))
        plain, packed = tar(entries)
        platform = {"architecture": architecture, "os": "linux"}
        described = {**platform, "config": config, "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(plain).hexdigest()}"]}}
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob(described, "config.v1+json"),
            "layers": [blob(packed, "layer.v1.tar+gzip")],
        }
        manifests.append({**blob(manifest, "manifest.v1+json"), "platform": platform})
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
    (pathlib.Path(dist) / "index.json").write_text(json.dumps(index))
    (pathlib.Path(dist) / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def formula(dist):
    """For the archives that are there, by Homebrew's names of systems and processors."""
    blocks = {"aarch64-apple-darwin": ("macos", "arm"), "x86_64-unknown-linux-musl": ("linux", "intel"), "aarch64-unknown-linux-musl": ("linux", "arm")}
    text = ""
    for target, (system, processor) in blocks.items():
        file = pathlib.Path(dist) / f"outboxd-{version()}-{target}.tar.gz"
        if file.exists():
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            text += (
                f"  on_{system} do\n    on_{processor} do\n"
                f'      url "{HOME}/releases/download/v{version()}/{file.name}"\n      sha256 "{digest}"\n    end\n  end\n\n'
            )
    (pathlib.Path(dist) / "outboxd.rb").write_text(
        f'class Outboxd < Formula\n  desc "Transactional-outbox relay from MongoDB to NATS JetStream"\n  homepage "{HOME}"\n'
        f'  version "{version()}"\n  license "Apache-2.0"\n\n{text}'
        '  def install\n    bin.install "outboxd"\n    man1.install Dir["man/*.1"]\n'
        '    bash_completion.install "completions/outboxd.bash" => "outboxd"\n'
        '    zsh_completion.install "completions/_outboxd"\n    fish_completion.install "completions/outboxd.fish"\n  end\n\n'
        '  test do\n    assert_match version.to_s, shell_output("#{bin}/outboxd --version")\n  end\nend\n'
    )


COMMANDS = {"versions": versions, "archive": archive, "npm": npm, "npm-launcher": npm_launcher, "wheel": wheel, "image": image, "formula": formula}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    sys.exit(COMMANDS[sys.argv[1]](*sys.argv[2:]))
