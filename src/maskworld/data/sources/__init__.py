"""One reader per format: folders of videos, token arrays, tar shards, drives."""
