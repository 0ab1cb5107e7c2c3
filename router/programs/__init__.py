"""Programs: several calls under one name, with one plan, one hold and one bill."""
