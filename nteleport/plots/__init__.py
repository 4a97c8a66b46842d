"""Pictures of trained jobs, drawn from their files: mean curves and box plots, with the numbers beside them.

`plot_results` draws a folder. The parts, in the order in which it uses them:

- `grouping`: which jobs share a picture (`Panel`) and which are runs of the same thing (`Group`);
  `wording` finds their words and `completeness` counts their runs and says what is missing;
- `tables`: the numbers of a picture, also written beside it as CSV;
- `curves`, `boxes`: a table as a matplotlib figure; `style` has colours and sizes, `legend` the legend.

No torch is imported, nor matplotlib before something is drawn.
"""
