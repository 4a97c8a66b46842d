"""What each study can be told: one settings class a study, all of them without torch.

`option` declares fields, `shared` has the fields of every study, and each other module the settings of the
study it is named after.
"""
