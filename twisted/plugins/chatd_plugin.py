"""Makes `twistd chatd` known to twistd."""

from twisted.application.service import ServiceMaker

chatd = ServiceMaker("chatd", "chatd.tap", "Real-time chat and message push.", "chatd")
