"""Writes an order and its event in one transaction; prints the event's id."""

import os
import sys

from bson import ObjectId
from bson.timestamp import Timestamp
from pymongo import MongoClient

number = sys.argv[1]
order = {"_id": number, "total": 25, "version": 0}
event = {
    "_id": ObjectId(),
    "ts": Timestamp(0, 0),  # the server fills it: the order within a key
    "subject": "order.placed",
    "key": number,  # the record's id
    "payload": {"id": number, "total": 25, "version": 0},
    "isLocked": True,
    "failures": [],
}


def place_order(session):
    # May run more than once. What an earlier run wrote is rolled back, so nothing is there twice.
    db.orders.insert_one(order, session=session)
    db.outbox.insert_one(event, session=session)


with MongoClient(os.environ["MONGODB_URI"]) as client:
    db = client.get_default_database()  # the one that the URI names
    with client.start_session() as session:
        session.with_transaction(place_order)

print(event["_id"])
