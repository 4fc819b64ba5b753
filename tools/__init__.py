"""Tools around the course and the library: building and grading notebooks, special tests, conversions."""
