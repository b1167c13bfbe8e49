"""`site.py stage FOLDER` lays out a book for mdBook, `site.py check FOLDER` checks the built one.

docs/README.md lists the pages in reading order; the book's table of contents is made from that
list. The staged tree is the project's own, so links between pages work there as they do here.
"""

import html.parser
import json
import pathlib
import posixpath
import re
import shutil
import subprocess
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOME = "https://github.com/outboxd/outboxd/blob/main/"
INDEX = "docs/README.md"
ITEM = re.compile(r"^( *)(?:-|\d+\.) \[([^\]]+)\]\(([^)#]+)\)")


def contents():
    """The parts of the list: a heading, and its items as (indent, title, path)."""
    parts = []
    for line in (ROOT / INDEX).read_text().splitlines():
        if line.startswith("## "):
            parts.append((line[3:], []))
        elif parts and (item := ITEM.match(line)):
            path = posixpath.normpath(posixpath.join("docs", item[3]))
            parts[-1][1].append((len(item[1]) // 2, item[2], path))
    return [part for part in parts if part[1]]


def stage(folder):
    """Copies the pages and what they show, and points other links to the project's home."""
    source = folder / "src"
    shutil.rmtree(folder, ignore_errors=True)
    source.mkdir(parents=True)
    parts = contents()
    pages = {"README.md"} | {path for _, items in parts for _, _, path in items}

    lines = ["# outboxd", "", "[outboxd](index.md)", ""]
    for heading, items in parts:
        lines += [f"# {heading}", ""]
        lines += [f"{'  ' * indent}- [{title}]({named(path)})" for indent, title, path in items] + [""]
    (source / "SUMMARY.md").write_text("\n".join(lines))

    for page in sorted(pages):
        target = source / named(page)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(re.sub(r"\]\(([^)\s]+)\)", lambda link: f"]({moved(page, link[1], pages, source)})", (ROOT / page).read_text()))
    (folder / "book.toml").write_text((ROOT / "docs/book.toml").read_text())


def named(page):
    """mdBook renames README.md and not the links to it."""
    return re.sub(r"README\.md$", "index.md", page)


def moved(page, link, pages, source):
    """Where a link of a page leads in the book."""
    path, _, anchor = link.partition("#")
    if not path or "://" in link or link.startswith("mailto:"):
        return link
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
    if target == INDEX:
        return posixpath.relpath("index.md", posixpath.dirname(page) or ".")
    if target in pages:
        return named(path) + (f"#{anchor}" if anchor else "")
    if target.endswith((".svg", ".png")):
        (source / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / target, source / target)
        return link
    return HOME + target + (f"#{anchor}" if anchor else "")


class Page(html.parser.HTMLParser):
    """The ids and the links of a built page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        self.links += [attributes[name] for name in ("href", "src") if attributes.get(name)]


def check(folder):
    book = folder / "html"
    pages = {path: Page(path.read_text()) for path in book.rglob("*.html") if path.name not in ("toc.html", "404.html")}
    wrong = []
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = urllib.parse.unquote(link).partition("#")
            if "://" in link or link.startswith(("mailto:", "data:", "javascript:")):
                if link.startswith(HOME) and not (ROOT / target[len(HOME) :]).exists():
                    wrong.append(f"{path.relative_to(book)}: {link}")
                continue
            file = (path.parent / target).resolve() if target else path
            if file.is_dir():
                file /= "index.html"
            if not file.exists() or anchor and file in pages and anchor not in pages[file].ids:
                wrong.append(f"{path.relative_to(book)}: {link}")
    built = len(pages)
    listed = sum(len(items) for _, items in contents())
    if built <= listed:
        wrong.append(f"{built} pages are built of {listed} that {INDEX} lists")
    for page in sorted(ROOT.glob("docs/*.md")):
        if page.relative_to(ROOT).as_posix() not in {path for _, items in contents() for _, _, path in items} | {INDEX}:
            wrong.append(f"{INDEX} does not list {page.name}")
    wrong += searched(book)
    print("\n".join(dict.fromkeys(wrong)) or f"{built} pages, every link leads somewhere, and search finds what it should")
    return len(wrong)


# What a reader types, and a page that has to be among the first five.
SEARCHES = {"dead events": "docs/failures", "duplicate window": "docs/", "mongoose": "docs/tutorial", "sidecar": "deploy/kubernetes", "10077": "docs/codes"}
SEARCH = """
const [library, index, ...asked] = process.argv.slice(1);
const elasticlunr = require(library);
let config;
new Function('window', 'JSON', require('fs').readFileSync(index, 'utf8') + ';window.search ??= search')(global.window = { search: {} }, JSON);
config = global.window.search;
const loaded = elasticlunr.Index.load(config.index);
for (const words of asked) {
  const found = loaded.search(words, config.search_options).slice(0, 5);
  console.log(JSON.stringify(found.map((hit) => config.doc_urls[Number(hit.ref)])));
}
"""


def searched(book):
    """What the book's own index and library find, run with Node; without Node only that both are there."""
    library, index = next(book.glob("elasticlunr*.js"), None), next(book.glob("searchindex*.js"), None)
    if not library or not index:
        return ["the book has no search"]
    if not shutil.which("node"):
        print("search is not tried: no node on PATH")
        return []
    run = subprocess.run(["node", "-e", SEARCH, str(library), str(index), *SEARCHES], capture_output=True, text=True)
    if run.returncode:
        return [f"search does not load: {run.stderr.strip().splitlines()[-1][:200]}"]
    found = [json.loads(line) for line in run.stdout.splitlines()]
    return [
        f"a search for {words!r} finds {urls}, and no {page}"
        for (words, page), urls in zip(SEARCHES.items(), found, strict=True)
        if not any(url.startswith(page) for url in urls)
    ]


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("stage", "check"):
        sys.exit(__doc__)
    sys.exit({"stage": stage, "check": check}[sys.argv[1]](pathlib.Path(sys.argv[2])))
