"""The TypeScript compiler for streams.js and its companions. Their types are in JSDoc.

`python -m tests.system.javascript.types` writes the declarations again, which npm's users get.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.packages import package
from tests.support.services import missing
from tests.support.sites import ROOT

FOLDER = ROOT / "streams" / "static" / "streams"
MODULES = ("streams", "elements", "follow", "react", "vue")

# As strict as a user's own project can be.
COMPILER_OPTIONS = {
    "allowJs": True,
    "checkJs": True,
    "strict": True,
    "target": "esnext",
    "module": "esnext",
    "moduleResolution": "bundler",
    "lib": ["dom", "dom.iterable", "esnext"],
    "types": [],
}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        missing(name, "nodejs npm")
    return str(found)


def compile_with(folder: Path, **options: object) -> None:
    """Run the TypeScript compiler, which checks the files and writes their declarations into `folder`."""
    compiler = package("typescript") / "bin" / "tsc"
    paths = {"vue": [str(package("vue") / "dist" / "vue.d.mts")]}
    files = [str(FOLDER / f"{name}.js") for name in MODULES] + [str(Path(__file__).with_name("react.d.ts"))]
    configuration = {"compilerOptions": {**COMPILER_OPTIONS, "paths": paths, **options}, "files": files}
    (folder / "tsconfig.json").write_text(json.dumps(configuration))
    run(program("node"), compiler, "-p", folder, cwd=folder)


def declarations(folder: Path) -> dict[str, str]:
    """Return the texts of the declaration files in a folder by their names."""
    return {path.name: path.read_text() for path in folder.rglob("*.d.ts")}


def write(folder: Path) -> Path:
    """Check the types, and write the declarations into a folder below `folder`, which is returned."""
    compile_with(folder, declaration=True, emitDeclarationOnly=True, outDir=str(folder / "types"))
    return folder / "types"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        for name, text in declarations(write(Path(temporary))).items():
            (FOLDER / "types").mkdir(exist_ok=True)
            (FOLDER / "types" / name).write_text(text)
