"""The tests mirror the rooms; a test is named after the promise that it checks."""
