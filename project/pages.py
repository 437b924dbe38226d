from django.http import HttpResponse


def board(r):
    return HttpResponse("x")


publish_news = listeners = random_numbers = random_page = board
