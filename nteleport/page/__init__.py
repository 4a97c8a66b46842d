"""One page about a folder of results, to share: HTML in one file, or Markdown for a pull request. No torch.

`read_report` gathers what the page says as a `Report`: sections of notes, tables, charts and code. The parts:

- `parts`: what a section is made of;
- `arms`: the teleportations of the folder, each with one label and one color on the whole page;
- `asked`, `curves`, `learning_rates`, `verdicts`, `ran`, `certificates`, `reproducing`: the sections;
- `charts`: Vega-Lite specifications; `numbers`: rounding, and numbers as text;
- `html` and `markdown`: a report as text; `web` has the template, the style and the script of the page;
- `server`: the page of a folder in use, on this machine only.

Every name in a results folder may be hostile. Text becomes HTML, JSON and Markdown in `html` and `markdown`
alone, where it is escaped; nothing else writes markup.
"""
