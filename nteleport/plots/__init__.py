"""Pictures of trained jobs, drawn from their files: mean curves and box plots, with the numbers beside them.

`plot_results` draws a folder. The parts, in the order in which it uses them:

- `grouping`: which jobs share a picture (`Panel`) and which are averaged together (`Group`); it also
  counts their runs and reports what is missing; `wording` names them;
- `tables`: the numbers of a picture, also written beside it as CSV;
- `curves`, `boxes`: a table as a matplotlib figure; `style` has colors and sizes, `legend` the legend.

torch is never imported, and matplotlib only when something is drawn.
"""
