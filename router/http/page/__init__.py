"""The page at `/`: files of the package for a browser, and what they ask for beside the API."""
