"""The exercises and quizzes of each lesson: ``lesson_NN.py`` holds its checks and its ``QUIZ``."""
