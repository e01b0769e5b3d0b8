"""The field's data sets: what they hold, how their folders are recognised, and their builders."""
