"""Where the pages of the site come from, for mkdocs.yml: their places in the repository, so that links are right."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
BESIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "edgemtl/zoo/nyud_edge/README.md")  # pages outside docs/
API = {  # a page of the reference: its title and what it documents
    "verbs": ("The commands as functions", ["edgemtl.verbs"]),
    "predictor": ("Predictor and Result", ["edgemtl.device.predictor.Predictor", "edgemtl.device.result.Result"]),
    "recipe": ("Recipes", ["edgemtl.recipe"]),
    "tasks": ("Tasks", ["edgemtl.tasks"]),
    "data": ("Data sets", ["edgemtl.data.DataSet", "edgemtl.data.folder"]),
    "artifact": ("Artifacts and targets", ["edgemtl.artifact", "edgemtl.target", "edgemtl.run.Run"]),
}


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
    return Files([*theirs, *ours])
