"""What Sampan costs: start, turn, session, round trips, and how it lasts. `make bench`, `make soak`.

Needs Linux (/proc) and, for whatever speaks HTTP, the model double and loader in ../shared/bench beside the clone.
"""
