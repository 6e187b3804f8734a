"""Where the pages of the site come from, for mkdocs.yml: their places in the repository, so that links are right."""

import json
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Pages outside docs/.
BESIDE = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md",
    "edgemtl/zoo/nyud_edge/README.md", "edgemtl/zoo/nyud_edge_s/README.md",
)  # fmt: skip
API = {  # a page of the reference: its title and what it documents
    "verbs": ("The commands as functions", ["edgemtl.verbs"]),
    "predictor": ("Predictor and Result", ["edgemtl.device.predictor.Predictor", "edgemtl.device.result.Result"]),
    "recipe": ("Recipes", ["edgemtl.records.recipe"]),
    "tasks": ("Tasks", ["edgemtl.tasks"]),
    "data": ("Data sets", ["edgemtl.records.dataset.DataSet", "edgemtl.data.folder"]),
    "artifact": (
        "Artifacts and targets",
        ["edgemtl.records.artifact", "edgemtl.records.target", "edgemtl.records.run.Run"],
    ),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """A page of docs/ that nobody has put into the navigation stands at its end, so that it can be reached."""
    listed = json.dumps(config.nav)
    others = [f"docs/{page.name}" for page in sorted(Path(config.docs_dir).glob("*.md"))]
    if others := [page for page in others if f'"{page}"' not in listed]:
        config.nav = [*(config.nav or []), {"More": others}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's own files, every page and picture under the path that it has here, and the reference's pages."""
    theirs = [file for file in files if file.src_dir != config.docs_dir]
    paths = [
        f"docs/{file.src_uri}" for file in files if file.src_dir == config.docs_dir and file.inclusion.is_included()
    ]
    ours = [File.generated(config, path, abs_src_path=str(ROOT / path)) for path in [*BESIDE, *paths]]
    for name, (title, documented) in API.items():
        text = f"# {title}\n\n" + "\n\n".join(f"::: {path}" for path in documented) + "\n"
        ours.append(File.generated(config, f"api/{name}.md", content=text))
    ours += [
        File.generated(config, str(Path(path).with_suffix(".md")), content=_page(ROOT / path))
        for path in paths
        if path.endswith(".ipynb")
    ]
    return Files([*theirs, *ours])


def _page(notebook: Path) -> str:
    """A notebook's cells as Markdown, without what they showed; its links lead to pages like this one."""
    parts = [f"*A notebook: [{notebook.name}]({notebook.name}) runs in Jupyter.*"]
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text.replace(".ipynb)", ".md)") if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join([parts[1], parts[0], *parts[2:]]) + "\n"
