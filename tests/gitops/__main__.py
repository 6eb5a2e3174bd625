"""`python -m gitops` writes the generated files of `charts/argocd/` anew."""

from __future__ import annotations

from gitops.argo import SCRIPTS, generated

if __name__ == "__main__":
    wanted = generated()
    for old in {*SCRIPTS.glob("*/testdata/*.yaml")} - wanted.keys():
        old.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
