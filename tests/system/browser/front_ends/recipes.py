"""The recipes of the guides on front ends, as a project that serves their files."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.packages import FOLDER as PACKAGES
from tests.support.packages import package
from tests.support.sites import ROOT

GUIDES = [ROOT / "docs" / "guides" / name for name in ("front-ends.md", "html-front-ends.md")]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


@dataclass
class Recipe:
    """A section of the guides that has a template. `announce` is the Python code that publishes for it."""

    name: str
    template: str
    announce: str
    commands: list[str]
    files: dict[str, str]  # the scripts by their names, which are in their first lines

    @property
    def channel(self) -> str:
        """Each recipe has a channel of its own, because the messages of some are HTML."""
        return f"public.{self.name}"

    def packages(self) -> set[str]:
        """Return the npm packages that the commands install."""
        installs = [shlex.split(command)[2:] for command in self.commands if command.startswith("npm install ")]
        return {name for names in installs for name in names}

    def write(self, project: Path) -> None:
        """Create the template and the static files in a project folder, by the commands of the recipe."""
        for name in self.packages():
            package(name)  # skips the test if it is missing
        (project / "templates" / f"{self.name}.html").write_text(self._in_own_channel(self.template))
        for name, text in self.files.items():
            (project / name).write_text(text)
        for command in self.commands:
            program, *arguments = shlex.split(command)
            if program == "cp":
                *sources, target = arguments
                for source in sources:
                    shutil.copy(project / source, project / target)
            elif program == "npx":
                subprocess.run([PACKAGES / ".bin" / arguments[0], *arguments[1:]], cwd=project, check=True, timeout=60)
            else:
                assert command.startswith("npm install "), command

    def publisher(self) -> str:
        """Return the Python code that defines announce() for the recipe's channel."""
        return self._in_own_channel(self.announce)

    def _in_own_channel(self, text: str) -> str:
        found, times = re.subn(r'(stream_url |publish\()"news"', rf'\1"{self.channel}"', text)
        assert times == 1, text
        return found


def read() -> list[Recipe]:
    """Return the recipes of the guides. One without an announce() uses the one before it, as the text says."""
    recipes = []
    for guide in GUIDES:
        announce = ""
        for section in re.split(r"^##+ ", guide.read_text(), flags=re.MULTILINE)[1:]:
            blocks = BLOCK.findall(section)
            announce = next((code for kind, code in blocks if kind == "python" and "def announce" in code), announce)
            if templates := [code for kind, code in blocks if kind == "html"]:
                [template] = templates
                name = section.split("\n", 1)[0].lower().replace(" ", "-")
                commands = [line for kind, code in blocks if kind == "sh" for line in code.splitlines()]
                scripts = [code for kind, code in blocks if kind in ("js", "jsx")]
                files = {code.split("\n", 1)[0].removeprefix("// "): code for code in scripts}
                recipes.append(Recipe(name, template, announce, commands, files))
    return recipes


def create_project(folder: Path, recipes: list[Recipe]) -> Path:
    """Create the templates and static files of all recipes in a folder."""
    for path in ("templates", "static/vendor"):
        (folder / path).mkdir(parents=True)
    (folder / "node_modules").symlink_to(PACKAGES)
    # The scripts of one recipe can import those of another.
    for recipe in sorted(recipes, key=lambda recipe: len(recipe.commands)):
        recipe.write(folder)
    return folder
