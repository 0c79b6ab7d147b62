"""The one viewer: what a page is told of runs (`feed`, `documents`, `pack`), the module that draws it there (js/), and
its picture without any script (`static`). Notebooks (`widgets`), reports and ``s3pet show --html`` all show this.
"""
