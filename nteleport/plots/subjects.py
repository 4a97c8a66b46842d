"""What the rows of a study's table are about, in words."""

from __future__ import annotations

import pandas as pd


def subject_names(table: pd.DataFrame) -> pd.Series[str]:
    """The model of each row, with its data set if there are several."""
    if table["dataset"].nunique() == 1:
        return table["model"].rename("subject")
    return (table["model"] + ", " + table["dataset"]).rename("subject")
